"""Request -> problem -> search -> table set; read `pipeline` first."""

from lutc.lazy import lazy

_EXPORTS = {
    "compile": "lutc.compiler.pipeline",
    "Request": "lutc.compiler.request",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
