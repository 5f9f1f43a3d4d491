"""The front of error against hardware cost."""

from lutc.lazy import lazy

_EXPORTS = {
    "EvolutionSettings": "lutc.explore.evolution",
    "Exploration": "lutc.explore.evolution",
    "explore": "lutc.explore.evolution",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
