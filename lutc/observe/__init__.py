"""Run a model and count what its functions are fed with (torch)."""

from lutc.lazy import lazy

_EXPORTS = {
    "calibrate": "lutc.observe.running",
    "model_digest": "lutc.observe.running",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
