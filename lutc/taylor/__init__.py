"""The second compiled target: a whole MLP as K-means centres and one local map per centre.

>>> from lutc import taylor
>>> inputs = taylor.collect(model, "encoder.layer.*:intermediate+output.dense", batches, "inputs/")
>>> table = taylor.fit(block, inputs, taylor.Settings(k=16))
>>> table.save("layer0")                      # layer0.json beside layer0.safetensors
>>> taylor.replace(model, {block.name: TaylorMLP(table)})

Importing this package does not import torch; using any of the names below does.
"""

from __future__ import annotations

from lutc.lazy import lazy

_EXPORTS = {
    "Block": "lutc.taylor.blocks",
    "find_blocks": "lutc.taylor.blocks",
    "replace": "lutc.taylor.blocks",
    "restore": "lutc.taylor.blocks",
    "Inputs": "lutc.taylor.inputs",
    "collect": "lutc.taylor.collector",
    "OnlineKMeans": "lutc.taylor.online",
    "find_centres": "lutc.taylor.cluster",
    "expand": "lutc.taylor.expansion",
    "hessian": "lutc.taylor.expansion",
    "Settings": "lutc.taylor.fitting",
    "fit": "lutc.taylor.fitting",
    "fit_sequential": "lutc.taylor.sequential",
    "evaluate": "lutc.taylor.evaluation",
    "distil": "lutc.taylor.distillation",
    "recalibrate": "lutc.taylor.radius",
    "TaylorTable": "lutc.taylor.table",
    "load": "lutc.taylor.reading",
    "save": "lutc.taylor.reading",
    "sweep": "lutc.taylor.sweeping",
    "account": "lutc.taylor.accounting",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
