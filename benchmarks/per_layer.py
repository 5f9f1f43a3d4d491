"""A table of its own for every activation of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import lutc
from lutc.evaluation import Variant
from lutc.nn.patching import Report


@dataclass(frozen=True)
class PerLayer(Variant):
    """each: tables by the layer's name, on the quantised inputs that `codes` has for it."""

    each: Mapping = field(default_factory=dict)

    def patch(self, model, only=None, skip=None) -> Report:
        whole = Report()
        for path, tables in self.each.items():
            if only is None or path.startswith(f"{only}."):
                whole.replaced.extend(lutc.patch(model, tables, only=path, quantise=self.codes[path]).replaced)
        return whole
