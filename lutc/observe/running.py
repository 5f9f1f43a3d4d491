"""`calibrate`: a model runs over batches with observers in the places of its functions, and is then as
it was before.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from lutc.calibration.file import Calibration
from lutc.errors import LutcError
from lutc.models.modes import evaluation_mode
from lutc.models.texts import several, to_device
from lutc.nn.patching.apply import refuse_patched
from lutc.nn.patching.choose import Selection, Wanted
from lutc.nn.patching.patcher import Patcher
from lutc.observe.observers import EXACT, Observing, ObservingAny, Watch, refuse_nan

_UNUSED = {"logits_to_keep": 1, "use_cache": False}  # what language models need not compute here


def model_digest(model: nn.Module) -> str:
    """Of a model's class and the names and shapes of its parameters, not of their values: fine-tuned weights keep it.
    SHA-256 in hex.
    """
    lines = sorted(f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters())
    return hashlib.sha256("\n".join([type(model).__name__, *lines]).encode()).hexdigest()


def calibrate(
    model: nn.Module,
    batches: Iterable,
    *,
    name: str | None = None,
    only: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    places: str | Sequence[str] | None = None,
    progress: Callable[[int], object] | None = None,
    channel_axis: int = -1,
    every_channel: bool = False,
) -> Calibration:
    """Run `model` over `batches` and count what its activations, softmaxes and norms are fed with.

    batches: dicts of keyword arguments, tuples of arguments, or single tensors; moved to the model's device one at a
    time. An `attention_mask` of shape (batch, length) among them keeps padding out, for inputs laid out as (batch,
    length, ...), (batch * length, ...) or, in a softmax, (batch, ..., queries, keys). Layers are found as `lutc.patch`
    finds them, by what they compute; only, skip: as there. places: paths of modules that are observed whatever they
    compute, as `patch(activation={path: table})` takes them; "auto" for every elementwise function, known or not, as
    `patch(activation="auto")` has it. name: of the model, for the file. progress: called with the number of tokens
    after each batch. channel_axis: the dimension of an activation's input along which the ranges of channels are kept
    (1 for images), which the file records; inputs that lack it or vary along it, and padded ones where it is not the
    last, have none, or with every_channel are an error.

    Memory does not grow with the data: about 1 MiB a layer. The model runs in eval mode without gradients, with
    attention computed step by step so that scores can be seen, and is left as it was. Raises LutcError where nothing is
    found, where a layer is fed with NaN, and for a patched model.
    """
    refuse_patched(model, "calibrate")
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, int):
        raise LutcError(f"channel_axis is the dimension of the channels, a whole number; given {channel_axis!r:.40}")
    digest = model_digest(model)
    watch = Watch(channel_axis=channel_axis, every_channel=every_channel)
    activations = {function: Observing(watch, function) for function in EXACT}
    wanted = Wanted(
        activations,
        Observing(watch, "softmax"),
        {kind: Observing(watch, kind) for kind in ("layer_norm", "rms_norm")},
        places={path: ObservingAny(watch) for path in ([] if places is None or places == "auto" else _listed(places))},
        other=ObservingAny(watch, own=places == "auto"),
    )
    patcher = Patcher(model, wanted, Selection(only, skip))
    data = {"batches": 0, "examples": 0, "tokens": 0}
    with evaluation_mode(model), patcher.applied():
        if not watch.observers:
            left = "; ".join(f"{entry.path} ({entry.what}): {entry.why}" for entry in patcher.report.left[:3])
            raise LutcError(
                f"{type(model).__name__} has no activation, softmax or norm that is known; found: {left or 'nothing'}"
            )
        for batch in several(batches):
            examples, tokens = run_batch(model, batch, watch)
            refuse_nan(watch)
            data = {
                "batches": data["batches"] + 1,
                "examples": data["examples"] + examples,
                "tokens": data["tokens"] + tokens,
            }
            if progress is not None:
                progress(tokens)
    if not data["batches"]:
        raise LutcError("there are no batches to calibrate on; give at least one")
    order = {**watch.running, **watch.observers}  # those that were never reached come last
    told = {"name": name or _name(model), "class": type(model).__name__, "digest": digest}
    left = tuple(f"{entry.path} ({entry.what}): {entry.why}" for entry in patcher.report.left)
    return Calibration(told, data, {path: observer.layer() for path, observer in order.items()}, left=left)


def _listed(places: str | Sequence[str]) -> list[str]:
    return [places] if isinstance(places, str) else list(places)


def _name(model: nn.Module) -> str:
    path = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "").rstrip("/\\")
    return os.path.basename(path) or type(model).__name__


@torch.no_grad()
def run_batch(model: nn.Module, batch: object, watch: Watch) -> tuple[int, int]:
    """One batch through the model; the number of its examples and of the tokens that count."""
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    batch = to_device(dict(batch) if isinstance(batch, Mapping) else batch, device)
    if isinstance(batch, torch.Tensor):
        batch = (batch,)
    ids = next((v for v in (batch.values() if isinstance(batch, dict) else batch) if isinstance(v, torch.Tensor)), None)
    if ids is None:
        raise LutcError(f"a batch is a tensor, or a tuple or dict with one; given {type(batch).__name__}")
    if isinstance(batch, dict):
        taken = inspect.signature(model.forward).parameters
        batch = {key: value for key, value in _UNUSED.items() if key in taken} | batch
        mask = batch.get("attention_mask")
        watch.mask = mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        ids = batch.get("input_ids", ids)
    else:
        watch.mask = None
    if isinstance(batch, dict):
        model(**batch)
    else:
        model(*batch)
    tokens = 0 if ids.is_floating_point() else int(ids.numel() if watch.mask is None else watch.mask.sum())
    return int(ids.shape[0]) if ids.ndim else 1, tokens
