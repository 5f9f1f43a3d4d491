"""Forwards begun at the first layer with a table: the layers before it give what they gave in the exact model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lutc.evaluation.layers import Recorder
from lutc.evaluation.outputs import ModelOutputs
from lutc.models.modes import other_forward
from lutc.nn.patching.report import Replaced


class Resuming:
    """Of the model whose exact forward `recorder` recorded, with these layers; only where it is proven to change
    nothing.
    """

    def __init__(self, recorder: Recorder, layers: list[str]):
        self.recorder, self.layers = recorder, layers
        self.allowed = False
        self._same: bool | None = None

    def prepare(self, call: Callable[[], object], exact: ModelOutputs) -> None:
        """Behind the recorded forward of a batch, which `call` runs again: begun in the middle and at the last layer it
        must give the same bits. Models where a layer reads more than the one before it are found so.
        """
        self.allowed = len(self.layers) > 1 and self._recorded()
        if self.allowed and self._same is None:
            self._same = False
            with contextlib.suppress(Exception):  # what a layer misses may be anything
                self._same = all(self._gives(call, exact, n) for n in (len(self.layers) // 2, len(self.layers) - 1))
        self.allowed = self.allowed and bool(self._same)

    def _recorded(self) -> bool:
        """Each layer ran once, in order, and gave nothing but its hidden states."""
        once = list(self.recorder.outputs) == [(name, 0) for name in self.layers]
        scripted = any(isinstance(self.recorder.model.get_submodule(n), torch.jit.ScriptModule) for n in self.layers)
        return once and None not in self.recorder.forms and not scripted

    def _gives(self, call: Callable[[], object], exact: ModelOutputs, count: int) -> bool:
        with self._behind(count):
            return exact.same(call(), self.recorder.mask)

    def at(self, replaced: Iterable[Replaced]) -> contextlib.AbstractContextManager[None]:
        """Forwards begin at the first layer that holds one of these places; as ever where one lies in no layer."""
        return self._behind(min(map(self._layer, replaced), default=0) if self.allowed else 0)

    def _layer(self, entry: Replaced) -> int:
        path = f"{entry.path.split(' ')[0]}."
        return next((index for index, name in enumerate(self.layers) if path.startswith(f"{name}.")), 0)

    @contextlib.contextmanager
    def _behind(self, count: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            recorded = zip(self.recorder.outputs.items(), self.recorder.forms, strict=True)
            for ((name, _), y), form in list(recorded)[:count]:
                module = self.recorder.model.get_submodule(name)
                stack.enter_context(other_forward(module, functools.partial(_again, y, form)))
            yield


def _again(y: Tensor, form: tuple | None, *args: Any, **kwargs: Any) -> Any:
    """What a layer gave; a copy, for the next one may work in place."""
    return form[0]([y.clone(), *form[1:]]) if form else y.clone()
