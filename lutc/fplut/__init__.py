"""FPLUT: floating-point tables over fp16 cut points (arXiv:2602.02988)."""

from lutc.lazy import lazy

_EXPORTS = {
    "FplutSettings": "lutc.fplut.pipeline",
    "compile_fplut": "lutc.fplut.pipeline",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
