"""Errors of the stored table over every input, and whether a file still has the ones it claims."""

from lutc.lazy import lazy

_EXPORTS = {
    "GRID": "lutc.certify.certificate",
    "certify": "lutc.certify.certificate",
    "check": "lutc.certify.certificate",
    "code_errors": "lutc.certify.certificate",
    "errors": "lutc.certify.certificate",
    "function_of": "lutc.certify.certificate",
    "right_rule": "lutc.certify.certificate",
    "tail_deviation": "lutc.certify.certificate",
    "certify_float": "lutc.certify.floats",
    "float_certificate": "lutc.certify.floats",
    "serving_key": "lutc.certify.coverage",
    "worst_error": "lutc.certify.coverage",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
