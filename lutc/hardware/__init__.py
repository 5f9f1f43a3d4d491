"""What a table costs in bits, integer models of row operators, and exports for a hardware flow."""

from lutc.lazy import lazy

_EXPORTS = {
    "Cost": "lutc.hardware.bits",
    "FIGURES": "lutc.hardware.bits",
    "accumulator_bits": "lutc.hardware.bits",
    "cost": "lutc.hardware.bits",
    "direct_cost": "lutc.hardware.bits",
    "lines_cost": "lutc.hardware.bits",
    "signed_bits": "lutc.hardware.bits",
    "together": "lutc.hardware.bits",
    "uniform_cost": "lutc.hardware.bits",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
