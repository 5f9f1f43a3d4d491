"""The second compiled target: a whole MLP as K-means centres and one local map per centre.

>>> from lutc import taylor
>>> inputs = taylor.collect(model, "encoder.layer.*:intermediate+output.dense", batches, "inputs/")
>>> table = taylor.fit(block, inputs, taylor.TaylorSettings(k=16))
>>> table.save("layer0")                      # layer0.json beside layer0.safetensors
>>> taylor.replace(model, {block.name: TaylorMLP(table)})

Importing this package does not import torch; using any of the names below does.
"""

from __future__ import annotations

import warnings

from lutc.lazy import lazy

_EXPORTS = {
    "Block": "lutc.taylor.blocks",
    "find_blocks": "lutc.taylor.blocks",
    "replace": "lutc.taylor.blocks",
    "restore": "lutc.taylor.blocks",
    "BlockInputs": "lutc.taylor.inputs",
    "collect": "lutc.taylor.collector",
    "OnlineKMeans": "lutc.taylor.online",
    "find_centres": "lutc.taylor.cluster",
    "expand": "lutc.taylor.expansion",
    "hessian": "lutc.taylor.expansion",
    "TaylorSettings": "lutc.taylor.fitting",
    "fit": "lutc.taylor.fitting",
    "fit_sequential": "lutc.taylor.sequential",
    "output_metrics": "lutc.taylor.metric",
    "evaluate": "lutc.taylor.evaluation",
    "distil": "lutc.taylor.distillation",
    "recalibrate": "lutc.taylor.radius",
    "TaylorTable": "lutc.taylor.table",
    "IntegerTaylorMLP": "lutc.taylor.integer",
    "export_c": "lutc.taylor.exporting",
    "export_onnx": "lutc.taylor.exporting",
    "load": "lutc.taylor.reading",
    "save": "lutc.taylor.reading",
    "sweep": "lutc.taylor.sweeping",
    "account": "lutc.taylor.accounting",
}
# Names of before 0.1.0, which other rooms of the package use as well.
_RENAMED = {"Settings": "TaylorSettings", "Inputs": "BlockInputs"}
__all__ = list(_EXPORTS)
_exported, __dir__ = lazy(__name__, _EXPORTS)


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        warnings.warn(
            f"lutc.taylor.{name} is called lutc.taylor.{_RENAMED[name]} now", DeprecationWarning, stacklevel=2
        )
        name = _RENAMED[name]
    return _exported(name)
