"""Where a table is judged, and how exactly."""

from lutc.lazy import lazy

_EXPORTS = {
    "Samples": "lutc.samples.samples",
    "code_samples": "lutc.samples.samples",
    "format_samples": "lutc.samples.samples",
    "grid_samples": "lutc.samples.samples",
    "ErrorBound": "lutc.samples.tolerance",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
