"""Every picture; importing this imports no matplotlib."""

from lutc.lazy import lazy

_EXPORTS = {
    "BLUE": "lutc.plots.figure",
    "GREEN": "lutc.plots.figure",
    "GREY": "lutc.plots.figure",
    "INK": "lutc.plots.figure",
    "ORANGE": "lutc.plots.figure",
    "RED": "lutc.plots.figure",
    "new_figure": "lutc.plots.figure",
    "save": "lutc.plots.figure",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
