"""The price of a segment, a pair of tables, an interval: what a search adds up."""

from lutc.lazy import lazy

_EXPORTS = {
    "SegmentCosts": "lutc.costs.segments",
    "real_costs": "lutc.costs.segments",
    "squared_costs": "lutc.costs.segments",
    "tail_costs": "lutc.costs.segments",
    "Points": "lutc.costs.points",
    "Moments": "lutc.costs.lines",
    "Ordinals": "lutc.costs.lines",
    "best_lines": "lutc.costs.lines",
    "pair_costs": "lutc.costs.pairs",
    "IntervalCosts": "lutc.costs.intervals",
    "Targets": "lutc.costs.targets",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
