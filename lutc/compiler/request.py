"""What is asked of the compiler, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lutc.calibration.layer_error import LayerErrors
from lutc.calibration.weights import Measured
from lutc.checks import is_int
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.search.genetic import GeneticSettings
from lutc.search.gradient import GradientSettings
from lutc.search.quadratic import QuadraticSettings

INT8 = tuple(Inputs(8, 2.0**-b) for b in range(7))
FLOAT_INPUTS = {"fp16": "fp16", "bf16": "bf16", "grid": "fp32"}  # float inputs and the coefficients they get by default
LAYER_OBJECTIVES = ("layer", "layer-diagonal", "layer-total")
OBJECTIVES = ("squared", "relative", "absolute", "maximum", "codes", *LAYER_OBJECTIVES)
SEARCHES = ("genetic", "exact", "greedy", "classic", "gradient")
SHARING = ("none", "all", "coefficients")


@dataclass(frozen=True)
class Request:
    """What to compile. Every field has GQA-LUT's default where it has one.

    inputs: Inputs (codes) or several, or "fp16" / "bf16" (every finite value), or "grid" (4,096 points). objective:
    "layer" is the error that a table adds to what a model's next layer gives (weights from one layer of a calibration
    that holds it), "layer-diagonal" its diagonal, a weighted squared error, "layer-total" the whole error there, what
    rounding and clipping the inputs does included. out: the output codes, for the objective "codes" and for the
    certificate. max_error: for the greedy search, which then chooses the entries itself. share: one table per scale,
    one set of breakpoints and lines for all, or lines alone shared. weights: see `lutc.samples`;
    "calibration.json:LAYER" weighs by what a model's layer was fed with (`lutc.calibration.weights`), and without a
    range widens the function's own to that. prologue: "reduce" stores the function's range reduction, behind which a
    table of float inputs holds for every x; "auto" does so for the gradient search.
    """

    function: str = "gelu"
    entries: int = 8
    range: tuple[float, float] | None = None
    inputs: tuple[Inputs, ...] | str = INT8
    coefficients: str | None = None
    search: str = "genetic"
    objective: str = "squared"
    out: Inputs | None = None
    share: str = "none"
    tails: str = "exact"
    symmetry: bool = False
    prologue: str = "auto"
    weights: str | Callable | Measured | LayerErrors | None = None
    max_error: str | None = None
    seed: int = 42
    genetic: GeneticSettings = field(default_factory=GeneticSettings)
    quadratic: QuadraticSettings = field(default_factory=QuadraticSettings)  # of the objective layer
    gradient: GradientSettings = field(default_factory=GradientSettings)
    generations: int = 500  # of the classic search

    def __post_init__(self):
        for name, value, allowed in (
            ("search", self.search, SEARCHES),
            ("objective", self.objective, OBJECTIVES),
            ("share", self.share, SHARING),
            ("tails", self.tails, ("exact", "free")),
            ("prologue", self.prologue, ("auto", "none", "reduce")),
        ):
            if value not in allowed:
                raise LutcError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")
        if not is_int(self.entries):
            raise LutcError(f"entries is a whole number; given {self.entries!r:.40}")
        if self.entries < 2:
            raise LutcError(f"a table has at least 2 entries; given {self.entries}")
        if not isinstance(self.inputs, str):
            object.__setattr__(self, "inputs", _codes(self.inputs))
        if isinstance(self.max_error, (int, float)):
            object.__setattr__(self, "max_error", repr(float(self.max_error)))
        if isinstance(self.inputs, str) and self.inputs not in FLOAT_INPUTS:
            raise LutcError(
                f"unknown inputs {self.inputs!r}; choose codes by bits and scale, or one of {', '.join(FLOAT_INPUTS)}"
            )
        if self.objective == "codes" and (self.out is None or isinstance(self.inputs, str)):
            raise LutcError("the objective codes needs input codes and an output scale (--out-scale)")
        if (self.search == "greedy") != (self.max_error is not None):
            raise LutcError("the greedy search and an error bound (--max-error) go together: give both or neither")
        if self.share != "none" and (isinstance(self.inputs, str) or self.search in ("greedy", "classic", "gradient")):
            raise LutcError("sharing over scales needs input codes and the genetic or the exact search")
        if self.prologue == "reduce" and (
            isinstance(self.inputs, tuple) or self.search == "greedy" or self.symmetry or self.weights is not None
        ):
            raise LutcError(
                "range reduction takes float inputs of uniform weight, no symmetry, and any search but greedy"
            )
        if self.share == "coefficients" and (self.search != "genetic" or self.objective not in ("squared", "relative")):
            raise LutcError("sharing coefficients takes the genetic search and a squared objective")
        if self.search == "classic" and (
            isinstance(self.inputs, str) or self.objective != "squared" or self.symmetry or self.weights is not None
        ):
            raise LutcError(
                "the classic search is GQA-LUT's own: input codes, squared objective, uniform weights, no symmetry"
            )
        if self.objective in LAYER_OBJECTIVES:
            fit = (
                isinstance(self.inputs, tuple)
                and not self.symmetry
                and self.share == "none"
                and self.weights is not None
            )
            if not fit or self.search not in (
                ("genetic",) if self.objective != "layer-diagonal" else ("genetic", "exact")
            ):
                needs = "input codes, --weights calibration.json:LAYER, the genetic search, no symmetry and no sharing"
                raise LutcError(f"the objective {self.objective} takes {needs}")
        if self.max_error is not None and self.weights is not None:
            raise LutcError("an error bound (--max-error) holds at every input alike; leave --weights out")


def _codes(inputs) -> tuple[Inputs, ...]:
    """Inputs, or several in any sequence, as a tuple."""
    try:
        inputs = (inputs,) if isinstance(inputs, Inputs) else tuple(inputs)
    except TypeError:
        inputs = (inputs,)
    wrong = [given for given in inputs if not isinstance(given, Inputs)]
    if wrong:
        raise LutcError(
            "inputs are lutc.samples.Inputs(bits, scale, zero_point), one for each scale, or a format's name; given "
            f"{wrong[0]!r:.40}"
        )
    return inputs
