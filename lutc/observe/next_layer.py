"""Collecting the error that each activation's next layer feels (`lutc.calibration.layer_error`) while a model runs.

An activation's output is followed to the linear layer it enters: through the product with a gate, dropout, reshapes and
casts. The norm that runs next over as many features weighs the tokens: what it divides by is what the model keeps of an
error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from lutc.calibration.file import Calibration
from lutc.calibration.layer_error import LayerError, with_errors
from lutc.calibration.scales import for_layer
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.models.modes import evaluation_mode
from lutc.nn.patching.apply import refuse_patched
from lutc.nn.patching.choose import Selection, Wanted
from lutc.nn.patching.patcher import Patcher
from lutc.nn.patching.recognise import Norm, is_norm, norm_of
from lutc.observe.following import Follow, Marking, Site, Tracer
from lutc.observe.observers import EXACT
from lutc.observe.running import model_digest, run_batch


def layer_errors(
    model: nn.Module,
    batches: Iterable,
    inputs: Sequence[Inputs] | Mapping[str, Sequence[Inputs]],
    *,
    tokens: int = 2048,
    token_weights: bool = True,
    only: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, list[LayerError]]:
    """The error that the layer after each activation feels, by the activation's name as `lutc.patch` reports it, one
    for each of its `inputs`.

    inputs: codes, for all activations or by name (others are then left out). tokens: how many to look at, drawn evenly
    from all batches, padding left out. token_weights: weigh each by 1 / variance at the norm that follows and take its
    gain along, where one follows; else all count the same. batches, only, skip, progress: as in `calibrate`.
    Activations that no linear layer follows are left out. LutcError where that leaves none.
    """
    batches = list(batches)
    if not batches or tokens < 1:
        raise LutcError(f"layer errors need at least one batch and one token; given {len(batches)} and {tokens}")
    refuse_patched(model, "calibrate")
    by_name = isinstance(inputs, Mapping)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tracer = Tracer(lambda path: inputs.get(path, ()) if by_name else inputs, names, -(-tokens // len(batches)))
    patcher = Patcher(model, Wanted({name: Marking(tracer, name) for name in EXACT}), Selection(only, skip))
    with evaluation_mode(model), patcher.applied(), contextlib.ExitStack() as hooks:
        for name, module in model.named_modules() if token_weights else ():
            known = norm_of(module) if is_norm(module) else None
            if known is not None:
                hooks.callback(
                    module.register_forward_pre_hook(_norm_hook(tracer, name, known), with_kwargs=True).remove
                )
        for batch in batches:
            with Follow(tracer):
                _, count = run_batch(model, batch, tracer)
            tracer.after_batch()
            if progress is not None:
                progress(count)
    found = {path: _result(site) for path, site in tracer.sites.items() if site.tokens}
    if not found:
        seen = ", ".join(list(tracer.sites)[:3]) or "no activation"
        raise LutcError(
            f"no linear layer follows the activations of {type(model).__name__} ({seen}); the objective layer needs one"
        )
    return found


def _norm_hook(tracer: Tracer, name: str, norm: Norm):
    return lambda module, args, kwargs: tracer.before_norm(name, module, norm, [*args, *kwargs.values()][0])


def _result(site: Site) -> list[LayerError]:
    facts = {"linear": site.linear, "norm": site.norm}
    return [LayerError(site.function, sums.inputs, sums.form.cpu().numpy(), site.tokens, facts) for sums in site.sums]


def with_layer_errors(
    calibration: Calibration,
    model: nn.Module,
    batches: Iterable,
    inputs: Mapping[str, Inputs] | Inputs | str | None = None,
    **options,
) -> Calibration:
    """The calibration with the layer errors of its model's activations, for what `lutc compile --objective layer`
    reads.

    inputs: as in `layer_errors`; None takes the 8-bit codes at each layer's best power of two. options: further
    arguments of `layer_errors`.
    """
    if model_digest(model) != calibration.model["digest"]:
        raise LutcError(
            f"the calibration is of another model ({calibration.model['name']}, {calibration.model['class']}); "
            "calibrate this one"
        )
    if inputs is None:
        reached = {
            name: layer
            for name, layer in calibration.layers.items()
            if layer.operator == "activation" and layer.histogram.count
        }
        inputs = {name: [for_layer(layer)] for name, layer in reached.items()}
    errors = layer_errors(model, batches, inputs, **options)
    layers = {
        name: with_errors(layer, errors[name]) if name in errors else layer
        for name, layer in calibration.layers.items()
    }
    return replace(calibration, layers=layers)
