"""Every search by name. A new one is a file that ends in its `SEARCH`, and one line here."""

from __future__ import annotations

import difflib

from lutc.errors import LutcError
from lutc.search import classic, cutpoints, exact, genetic, gradient, greedy, quadratic
from lutc.search.search import Search

SEARCHES: dict[str, Search] = {
    module.SEARCH.name: module.SEARCH for module in (genetic, exact, greedy, classic, gradient, quadratic, cutpoints)
}


def get(name: str) -> Search:
    """The search called `name`; LutcError, with the nearest one, where there is none."""
    if name in SEARCHES:
        return SEARCHES[name]
    near = difflib.get_close_matches(str(name), SEARCHES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise LutcError(f"unknown search {name!r}; {hint}choose one of {', '.join(SEARCHES)}")
