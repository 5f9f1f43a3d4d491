"""What a model's activations, softmaxes and norms are fed with, and what follows from it: scales, and weights for the
compiler.

>>> from lutc.calibration import calibrate, read
>>> calibrate(model, batches).save("calibration.json")     # needs torch
>>> read("calibration.json").layer("layers.3.mlp.act_fn")  # does not
"""

from lutc.calibration.file import Calibration, Layer, read
from lutc.calibration.histogram import Histogram
from lutc.lazy import lazy

__all__ = ["Calibration", "Histogram", "Layer", "calibrate", "model_digest", "read"]
__getattr__, __dir__ = lazy(
    __name__, dict.fromkeys(("calibrate", "model_digest"), "lutc.observe.running")
)  # which imports torch
