"""What a model's activations, softmaxes and norms are fed with, and what follows from it: scales, and weights for the compiler.

>>> from lutc.calibration import calibrate, read
>>> calibrate(model, batches).save("calibration.json")     # needs torch
>>> read("calibration.json").layer("layers.3.mlp.act_fn")  # does not
"""

from lutc.calibration.file import Calibration, Layer, read
from lutc.calibration.histogram import Histogram

__all__ = ["Calibration", "Histogram", "Layer", "calibrate", "model_digest", "read"]


def __getattr__(name: str):
    """`calibrate` and `model_digest` import torch, so they come on first use."""
    if name in ("calibrate", "model_digest"):
        from lutc.calibration import observe

        return getattr(observe, name)
    raise AttributeError(f"module 'lutc.calibration' has no attribute {name!r}")
