"""Fine-tuning replaced blocks together, so that the whole model gives what the exact one gives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.blocks import find_blocks, replace, restore

_WARM_UP = 20
# Steps of what is a centre's own, for a rate of 1: a centre sees few rows of a batch, and longer steps follow their
# noise.
_OWN = 0.5
# Parameters of kept neurons, one set for all centres.
_NEURONS = ("weights", "offsets")


def distil(
    model: nn.Module,
    mlps: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Tensor]],
    *,
    loss: Callable[[object, object, Mapping[str, Tensor]], Tensor] | None = None,
    rate: float = 1e-4,
    steps: int | None = None,
    hidden: float = 0.3,
    mask: str = "attention_mask",
    dtype: str = "fp32",
    report: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train slopes, biases and kept neurons of `mlps` (block name -> TaylorMLP) in place; returns the loss of each
    step.

    The teacher is the model with its exact blocks, the student the same model with `mlps` in their place; the student's
    other weights and the exact MLPs of a fallback stay as they are, and the model is exact again afterwards. Per step:
    `loss(student_output, teacher_output, batch)` (default: the relative squared error of the first tensor) plus
    `hidden` times the relative squared errors at the outputs of the layers that hold the blocks. Adam with a linear
    warm-up and a cosine to 0 over `steps` (default: one pass). Kept neurons take steps of `rate`, what is a centre's
    own half as long ones, and all centres of a table a common step of `rate` beside, in what means the same for all of
    them (the bias, what a neuron adds to the output, Jacobians of full rank): what all get wrong alike shows in every
    row, while a centre alone sees few rows of a batch. From a good fit only small steps go down: at ten times the
    default rate ten steps put a quarter on it. dtype "bf16" runs both models under torch's autocast, several
    times faster on a CPU with bf16 products. Raises LutcError where no slope can be trained (int8).
    """
    if dtype not in ("fp32", "bf16"):
        raise LutcError(f"distillation in {dtype!r} is not possible; use fp32 or bf16")
    batches = list(batches)
    steps = len(batches) if steps is None else steps
    if not batches or not any(_trained(mlp, "slopes") for mlp in mlps.values()):
        raise LutcError(
            "nothing to train: give at least one batch, and tables stored in fp32 (store them in another format "
            "afterwards)"
        )
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = [model.get_submodule(_layer(find_blocks(model, name)[0].paths[0], name)) for name in mlps]
    optimiser, common = _optimiser(mlps, rate)
    rates = [group["lr"] for group in optimiser.param_groups]
    device = next(parameter.device for mlp in mlps.values() for parameter in mlp.parameters())
    cast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16")
    losses = []
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for step in _progress(steps):
            batch = batches[step % len(batches)]
            with torch.no_grad(), cast:
                wanted, wanted_layers = _run(model, layers, batch)
            replace(model, mlps)
            try:
                with cast:
                    given, given_layers = _run(model, layers, batch)
            finally:
                restore(model)
            rows = batch.get(mask) if isinstance(batch, Mapping) else None
            total = relative_error(_first(given), _first(wanted), rows) if loss is None else loss(given, wanted, batch)
            losses.append(float(total.detach()))
            total = total + hidden * sum(relative_error(a, b, rows) for a, b in zip(given_layers, wanted_layers))
            for group, full in zip(optimiser.param_groups, rates):
                group["lr"] = full * min(1, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.zero_grad()
            total.backward()
            for one in common:
                one.gather()
            optimiser.step()
            for one in common:
                one.apply()
            if report is not None:
                report(step, losses[-1])
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return losses


def _optimiser(mlps: Mapping[str, nn.Module], rate: float) -> tuple[torch.optim.Optimizer, list[_Common]]:
    """Adam over what is trained of `mlps`, and the common steps of their centres, which it makes as well."""
    common = [one for mlp in mlps.values() for one in _common(mlp)]
    own: list[nn.Parameter] = []
    shared = [one.step for one in common]
    for mlp in mlps.values():
        for name, parameter in mlp.named_parameters():
            if not name.startswith("exact.") and _trained(mlp, name):
                (shared if name in _NEURONS else own).append(parameter)
    groups = [{"params": own, "lr": rate * _OWN}, {"params": shared, "lr": rate}]
    return torch.optim.Adam(groups, betas=(0.9, 0.98), fused=True), common


def _trained(mlp: nn.Module, name: str) -> bool:
    parameter = mlp.get_parameter(name)
    return parameter.requires_grad and parameter.dtype == torch.float32


class _Common:
    """What all centres have in common of a parameter [k, ...], a step of its own: of all entries, or of the columns
    from `first` on, which belong to the kept neurons `chosen` [k, n] out of `m`.
    """

    def __init__(self, parameter: nn.Parameter, chosen: Tensor | None = None, m: int = 0, first: int = 0):
        self.parameter, self.first = parameter, first
        self.chosen = None if chosen is None else chosen.long()
        shape = parameter.shape[1:] if chosen is None else (m, parameter.shape[1])
        self.step = nn.Parameter(parameter.new_zeros(shape))

    def gather(self) -> None:
        gradient = self.parameter.grad
        if gradient is None or self.chosen is None:
            self.step.grad = None if gradient is None else gradient.sum(0)
            return
        columns = gradient[:, :, self.first :].transpose(1, 2).reshape(-1, gradient.shape[1])
        self.step.grad = torch.zeros_like(self.step).index_add_(0, self.chosen.flatten(), columns)

    @torch.no_grad()
    def apply(self) -> None:
        if self.chosen is None:
            self.parameter.add_(self.step)
        else:
            self.parameter[:, :, self.first :] += self.step[self.chosen].transpose(1, 2)
        self.step.zero_()


def _common(mlp: nn.Module) -> list[_Common]:
    """Of the parameters of `mlp` those parts that mean the same for every centre."""
    chosen, projections = getattr(mlp, "chosen", None), getattr(mlp, "projections", None)
    slopes = mlp.get_parameter("slopes")
    found = [_Common(mlp.get_parameter("bias"))]
    if chosen is not None:
        found += [_Common(slopes, chosen, len(mlp.get_parameter("weights")), slopes.shape[2] - chosen.shape[1])]
    elif projections is None:
        found += [_Common(slopes)]
    return [one for one in found if one.parameter.dtype == torch.float32]


def relative_error(given: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum |given - wanted|^2 / sum |wanted|^2 over the positions where `mask` (of the leading dimensions) is not 0."""
    given, wanted = given.float(), wanted.float()
    error, size = (given - wanted).square().sum(-1), wanted.square().sum(-1)
    if mask is not None and mask.shape == error.shape:
        error, size = error * mask, size * mask
    return error.sum() / size.sum().clamp_min(1e-30)


def _run(model: nn.Module, layers: list[nn.Module], batch) -> tuple[object, list[Tensor]]:
    """The model's output and, in order, those of its `layers`."""
    seen: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda module, _, output, i=i: seen.__setitem__(i, _first(output)))
        for i, layer in enumerate(layers)
    ]
    try:
        output = (
            model(**batch)
            if isinstance(batch, Mapping)
            else model(*batch)
            if isinstance(batch, tuple | list)
            else model(batch)
        )
    finally:
        for hook in hooks:
            hook.remove()
    return output, [seen[i] for i in range(len(layers))]


def _first(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _layer(path: str, name: str) -> str:
    """The module that holds a block: the chain's parent, or what the block's module lies in."""
    return name.partition(":")[0] if ":" in name else path.rpartition(".")[0]


def _progress(steps: int):
    from tqdm import tqdm

    return tqdm(range(steps), desc="distil", unit=" steps", disable=not sys.stderr.isatty())
