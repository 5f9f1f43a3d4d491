"""The runtime's numba kernels for the CPU."""

from lutc.lazy import lazy

_EXPORTS = {"evaluate": "lutc.nn.cpu.lines", "kernel_of": "lutc.nn.cpu.lines", "run": "lutc.nn.cpu.lines"}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
