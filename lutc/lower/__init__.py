"""Table -> plan: plain arrays that a kernel walks."""

from lutc.lazy import lazy

_EXPORTS = {
    "lower": "lutc.lower.lowering",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
