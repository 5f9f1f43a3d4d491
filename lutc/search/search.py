"""What a search is to the compiler: its settings, what it takes, and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult


@dataclass(frozen=True)
class Search:
    """solve(problem, settings) -> SearchResult; the same problem and settings give the same result.

    settings: the dataclass of its settings. takes: "segments", "tables" or "intervals", costs of these; "samples"; or
    "function", the function on a dense grid, for all scales at once. The rest says what the compiler may ask of it:
    objectives; codes, floats: kinds of inputs; shares: what several scales may share; symmetry, weights, reduction:
    a stored half, unequal weights, range reduction; bounded: whether it finds the entries for an error bound itself.
    """

    name: str
    summary: str
    settings: type
    solve: Callable[[SearchProblem, Any], SearchResult]
    takes: str
    objectives: tuple[str, ...]
    codes: bool = True
    floats: bool = True
    shares: tuple[str, ...] = ("none",)
    symmetry: bool = True
    weights: bool = True
    reduction: bool = True
    bounded: bool = False
