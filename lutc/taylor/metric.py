"""What errors in a block's output do to the whole model: a matrix for each block, by which a fit can choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.models.modes import evaluation_mode
from lutc.taylor.blocks import Block, find_blocks
from lutc.taylor.evaluation import pooled_output

# The share of plain squares: what is not felt on some documents may be on others.
_PLAIN = 0.1


def output_metrics(
    model: nn.Module,
    modules: str | Iterable[str] | None,
    batches: Iterable,
    *,
    post_norm: bool = False,
    mask: str = "attention_mask",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Block name -> M [o, o] (float64, trace o, positive definite): small errors e of the block's output, independent
    between tokens, move the direction of the model's pooled first output by e^T M e in the mean square, up to a factor.

    M is the covariance of the gradients of the output along random directions (the output factor of K-FAC,
    arXiv:1503.05671), and a tenth of the unit matrix. `post_norm` as in TaylorSettings: errors count in units of the
    spread that a layer norm behind the block divides by. A few hundred documents are enough. Raises LutcError where
    there are no batches or no gradient comes back.
    """
    watched = [_Watched(block, post_norm) for block in find_blocks(model, modules)]
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.enable_grad())
        for one in watched:
            stack.callback(one.block.modules[0].register_forward_pre_hook(one.before).remove)
            stack.callback(one.block.modules[-1].register_forward_hook(one.after).remove)
        for batch in batches:
            output = nn.functional.normalize(pooled_output(model, batch, mask), dim=1)
            direction = torch.randn(output.shape, generator=generator).to(output)
            gradients = torch.autograd.grad((output * direction).sum(), [one.output for one in watched])
            keep = batch.get(mask) if isinstance(batch, Mapping) else None
            for one, gradient in zip(watched, gradients):
                one.add(gradient, keep)
    return {one.block.name: one.metric() for one in watched}


class _Watched:
    """One block while the model runs, and the sum of what its gradients give."""

    def __init__(self, block: Block, post_norm: bool):
        self.block, self.post_norm = block, post_norm
        self.sum: Tensor | None = None

    def before(self, module: nn.Module, arguments: tuple) -> None:
        self.input = arguments[0].detach()

    def after(self, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
        self.output = output if output.requires_grad else output.detach().requires_grad_()
        return self.output

    def add(self, gradient: Tensor, keep: Tensor | None) -> None:
        if self.post_norm:
            gradient = gradient * (self.input + self.output.detach()).var(-1, keepdim=True).sqrt()
        if keep is not None and keep.shape == gradient.shape[:-1]:
            # A pooled output takes the mean over tokens: by their number, each counts as much in any document.
            gradient = (gradient * keep.sum(1)[:, None, None])[keep.bool()]
        gradient = gradient.reshape(-1, gradient.shape[-1]).double().cpu()
        self.sum = gradient.T @ gradient + (0 if self.sum is None else self.sum)

    def metric(self) -> Tensor:
        if self.sum is None or not float(self.sum.trace()) > 0:
            raise LutcError(f"no gradient reaches {self.block.name}; give batches on which the model uses it")
        o = len(self.sum)
        return (1 - _PLAIN) * o / self.sum.trace() * self.sum + _PLAIN * torch.eye(o, dtype=torch.float64)
