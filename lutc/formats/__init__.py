"""Number formats, input codes, the bits of fp16, requantising."""

from lutc.lazy import lazy

_EXPORTS = {
    "FLOAT_FORMATS": "lutc.formats.format",
    "Format": "lutc.formats.format",
    "get": "lutc.formats.format",
    "nearest": "lutc.formats.format",
    "properties": "lutc.formats.format",
    "Inputs": "lutc.formats.codes",
    "Outputs": "lutc.formats.codes",
    "ROUNDINGS": "lutc.formats.codes",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
