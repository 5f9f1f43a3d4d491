"""What is asked of the compiler, in five parts that check themselves: the function, its inputs, the numbers that are
stored, the error that is judged by, and the search. What each search can serve stands with the search.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Any

from lutc import functions
from lutc.calibration.layer_error import LayerErrors
from lutc.calibration.weights import Measured
from lutc.checks import is_finite, is_int
from lutc.costs.objectives import LAYER, OBJECTIVES, SQUARED
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Function
from lutc.functions.promises import ordered
from lutc.functions.spelling import base, spelled
from lutc.search import registry
from lutc.search.search import Search

INT8 = tuple(Inputs(8, 2.0**-b) for b in range(7))
FLOAT_INPUTS = {"fp16": "fp16", "bf16": "bf16", "grid": "fp32"}  # float inputs and the coefficients they get by default
SHARING = ("none", "all", "coefficients")
TAILS = ("exact", "free")
PROLOGUES = ("auto", "none", "reduce")


def _one_of(name: str, value: object, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise LutcError(f"unknown {name} {value!r}; choose one of {', '.join(allowed)}")


@dataclass(frozen=True)
class FunctionPart:
    """What is approximated. function: a name, "module:name", or a Function. range: None for the function's own. tails:
    "exact" keeps the first and last entry for them. symmetry: one half is stored, an identity gives the other.
    prologue: "reduce" stores the function's range reduction, behind which a table of float inputs holds for every x;
    "auto" does so for the gradient search.
    """

    function: str | Function = "gelu"
    range: tuple[float, float] | None = None
    tails: str = "exact"
    symmetry: bool = False
    prologue: str = "auto"

    def __post_init__(self) -> None:
        _one_of("tails", self.tails, TAILS)
        _one_of("prologue", self.prologue, PROLOGUES)
        if self.symmetry and self.prologue == "reduce":
            raise LutcError("range reduction takes the whole function; leave `symmetry` out")


@dataclass(frozen=True)
class InputPart:
    """Over which inputs. inputs: Inputs (codes) or several, or "fp16" / "bf16" (every finite value), or "grid" (4,096
    points). weights: see `lutc.samples`; "calibration.json:LAYER" weighs by what a model's layer was fed with
    (`lutc.calibration.weights`), and without a range widens the function's own to that.
    """

    inputs: tuple[Inputs, ...] | str = INT8
    weights: str | Callable | Measured | LayerErrors | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, str):
            object.__setattr__(self, "inputs", _codes(self.inputs))
        elif self.inputs not in FLOAT_INPUTS:
            raise LutcError(
                f"unknown inputs {self.inputs!r}; choose codes by bits and scale, or one of {', '.join(FLOAT_INPUTS)}"
            )

    @property
    def coded(self) -> bool:
        """Whether inputs are codes, not floats."""
        return not isinstance(self.inputs, str)


@dataclass(frozen=True)
class StoragePart:
    """In which numbers. entries: at most so many, tails included. coefficients: a format's name, None for the
    function's own. slopes, intercepts: narrower sets of numbers for either (`lutc.formats.numbers`). share: one table
    per scale, one set of breakpoints and lines for all, or lines alone shared. out: the output codes, for the objective
    "codes" and for the certificate. cut_step: segments begin at codes that are multiples of it, a power of two, so that
    the top bits of a code address them; 1 leaves them free.
    """

    entries: int = 8
    coefficients: str | None = None
    slopes: str | None = None
    intercepts: str | None = None
    share: str = "none"
    out: Inputs | None = None
    cut_step: int = 1

    def __post_init__(self) -> None:
        _one_of("share", self.share, SHARING)
        if not is_int(self.entries):
            raise LutcError(f"entries is a whole number; given {self.entries!r:.40}")
        if self.entries < 2:
            raise LutcError(f"a table has at least 2 entries; given {self.entries}")
        if not is_int(self.cut_step) or not 1 <= self.cut_step <= 1 << 15 or self.cut_step & (self.cut_step - 1):
            raise LutcError(f"the step of cuts is a power of two of codes, 1 to 32768; given {self.cut_step!r:.40}")


@dataclass(frozen=True)
class ErrorPart:
    """Judged how. objective: a key of `lutc.costs.objectives.OBJECTIVES`. "layer" is the error that a table adds to
    what a model's next layer gives (weights from one layer of a calibration that holds it), "layer-diagonal" its
    diagonal, a weighted squared error, "layer-total" the whole error there, what rounding and clipping the inputs does
    included. max_error: a bound, for the search that chooses the entries itself. promises: what the table must keep of
    the function whatever it costs, names of `lutc.functions.promises.PROMISES`.
    """

    objective: str = "squared"
    max_error: str | None = None
    promises: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("objective", self.objective, OBJECTIVES)
        if isinstance(self.max_error, (int, float)):
            object.__setattr__(self, "max_error", repr(float(self.max_error)))
        object.__setattr__(self, "promises", ordered(self.promises))


@dataclass(frozen=True)
class SearchPart:
    """Found how. search: a name of `lutc.search.registry`. settings: of that search's own type, None for its defaults.
    The same seed gives the same table.
    """

    search: str = "genetic"
    settings: Any = None
    seed: int = 42

    def __post_init__(self) -> None:
        registry.get(self.search)


@dataclass(frozen=True)
class Request:
    """What to compile. Every field has GQA-LUT's default where it has one. LutcError for parts that do not fit."""

    function: FunctionPart = field(default_factory=FunctionPart)
    inputs: InputPart = field(default_factory=InputPart)
    storage: StoragePart = field(default_factory=StoragePart)
    error: ErrorPart = field(default_factory=ErrorPart)
    search: SearchPart = field(default_factory=SearchPart)

    @classmethod
    def of(cls, function: str | Function | Callable = "gelu", entries: int = 8, **options: Any) -> Request:
        """A request from the fields of its parts by name: Request.of("gelu", 8, share="all", seed=1). A callable needs
        a `range`. LutcError for a name that no part has.
        """
        if callable(function) and not isinstance(function, Function):
            function = functions.load(function, options.get("range"))
        given = {"function": function, "entries": entries, **options}
        parts = {}
        for part in fields(cls):
            kind = PARTS[part.name]
            parts[part.name] = kind(**{f.name: given.pop(f.name) for f in fields(kind) if f.name in given})
        if given:
            known = [f.name for kind in PARTS.values() for f in fields(kind)]
            wrong = next(iter(given))
            family = functions.FAMILIES.get(base(function)) if isinstance(function, str) else None
            if family is not None and wrong in [one.name for one in family.parameters]:
                written = spelled(family.name, {wrong: given[wrong]} if is_finite(given[wrong]) else {wrong: 1.0})
                raise LutcError(f"parameters stand with the function's name: {written!r}")
            near = difflib.get_close_matches(wrong, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LutcError(f"there is no option {wrong!r}; {hint}known: {', '.join(known)}")
        return cls(**parts)

    @property
    def found_by(self) -> Search:
        """The search that serves it: under the error of a model's next layer the genetic one takes whole tables."""
        named = registry.get(self.search.search)
        whole = named.name == "genetic" and self.error.objective in registry.SEARCHES["quadratic"].objectives
        return registry.SEARCHES["quadratic"] if whole else named

    @property
    def settings(self) -> Any:
        """Of the search that serves it."""
        given, wanted = self.search.settings, self.found_by.settings
        if given is None:
            return wanted()
        if not isinstance(given, wanted):
            raise LutcError(
                f"the {self.found_by.name} search takes {wanted.__name__} as `settings`; given {type(given).__name__}"
            )
        return given

    def __post_init__(self) -> None:
        named, objective = registry.get(self.search.search), self.error.objective
        if named.takes == "intervals":
            raise LutcError("the cutpoints search makes another kind of table: call lutc.fplut.compile_fplut")
        if named.bounded != (self.error.max_error is not None):
            raise LutcError("the greedy search and an error bound (`max_error`) go together: give both or neither")
        if objective not in named.objectives:
            able = [
                name
                for name, search in registry.SEARCHES.items()
                if objective in search.objectives and search.takes != "tables"
            ]
            raise LutcError(
                f"the {named.name} search takes the objective {', '.join(named.objectives)}; given {objective!r}, "
                f"which belongs to {' and '.join(able)}"
            )
        if objective == "codes" and (self.storage.out is None or not self.inputs.coded):
            raise LutcError("the objective codes needs input codes and an output scale (`out`)")
        if self.storage.out is not None and not self.inputs.coded and not named.bounded:
            raise LutcError("output codes (`out_scale`) are counted for input codes; leave them out with float inputs")
        self._check_abilities(named)
        self._check_promises(named)
        self._check_numbers(named)
        self._check_step(named)
        if objective in LAYER and not (self.inputs.coded and self.inputs.weights is not None and self._plain):
            needs = "input codes, `weights` calibration.json:LAYER, no symmetry and no sharing"
            raise LutcError(f"the objective {objective} takes {needs}")
        self.settings  # noqa: B018 - raises for settings of another search

    def _check_promises(self, search: Search) -> None:
        promises = self.error.promises
        if not promises:
            return
        able = self.found_by.takes == "segments" or search.name == "gradient"
        if not able:
            raise LutcError(
                f"promises ({', '.join(promises)}) are kept by the genetic, the exact and the gradient search, with no "
                f"error of a next layer; given {search.name} and {self.error.objective}"
            )
        if self.function.symmetry or self.function.prologue == "reduce":
            raise LutcError("promises are made for tables of whole functions; leave `symmetry` and range reduction out")
        if self.storage.share == "coefficients":
            raise LutcError("tables that share coefficients keep no promises; leave `share` out or share all")
        tied = [name for name in promises if name in ("monotone", "continuous", "convex")]
        if tied and self.storage.share != "none":
            raise LutcError(f"{', '.join(tied)}: kept for one scale at a time; leave `share` out")

    def _check_numbers(self, search: Search) -> None:
        if self.storage.slopes is None and self.storage.intercepts is None:
            return
        able = search.takes == "segments" and self.found_by.takes == "segments"
        if not (able and self.inputs.coded) or self.storage.share == "coefficients":
            raise LutcError(
                "numbers of their own for `slopes` and `intercepts` are for tables over input codes, found by the "
                "genetic or the exact search, that do not share coefficients"
            )

    def _check_step(self, search: Search) -> None:
        able = search.takes == "segments" and self.found_by.takes == "segments"
        if self.storage.cut_step > 1 and not (able and self.inputs.coded and self._plain and not self.error.promises):
            raise LutcError(
                "a step of cuts is for tables over input codes, found by the genetic or the exact search, with no "
                "promises, no symmetry and no sharing"
            )

    @property
    def _plain(self) -> bool:
        return not self.function.symmetry and self.storage.share == "none"

    def _check_abilities(self, search: Search) -> None:
        share, weighted = self.storage.share, self.inputs.weights is not None
        if not (search.codes if self.inputs.coded else search.floats):
            raise LutcError(f"the {search.name} search takes {'float inputs' if search.floats else 'input codes'}")
        if share != "none" and not (self.inputs.coded and share in search.shares):
            able = [name for name, other in registry.SEARCHES.items() if share in other.shares]
            raise LutcError(
                f"sharing {'over scales' if share == 'all' else share} needs input codes and the "
                f"{' or the '.join(able)} search"
            )
        if share != "none" and self.error.objective not in SQUARED:
            raise LutcError(f"sharing takes a squared objective; given {self.error.objective}")
        if self.function.symmetry and not search.symmetry:
            raise LutcError(f"the {search.name} search stores whole functions; leave `symmetry` out")
        if weighted and not search.weights:
            why = "an error bound holds at every input alike" if search.bounded else "it weighs all inputs alike"
            raise LutcError(f"the {search.name} search takes no `weights`: {why}")
        if self.function.prologue == "reduce" and (self.inputs.coded or weighted or not search.reduction):
            raise LutcError(
                "range reduction takes float inputs of uniform weight, and not the greedy or classic search"
            )


PARTS = {
    "function": FunctionPart,
    "inputs": InputPart,
    "storage": StoragePart,
    "error": ErrorPart,
    "search": SearchPart,
}


def _codes(inputs: Any) -> tuple[Inputs, ...]:
    """Inputs, or several in any sequence, as a tuple."""
    try:
        inputs = (inputs,) if isinstance(inputs, Inputs) else tuple(inputs)
    except TypeError:
        inputs = (inputs,)
    wrong = [given for given in inputs if not isinstance(given, Inputs)]
    if wrong:
        raise LutcError(
            "inputs are lutc.formats.Inputs(bits, scale, zero_point), one for each scale, or a format's name; given "
            f"{wrong[0]!r:.40}"
        )
    return inputs
