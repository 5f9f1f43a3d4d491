"""What a file says of its search, held against itself and against the table: cost, optimum or bound, and gap.

A compile records, by key, the `cost` of its table in the objective, the proven `optimum` or a `lower_bound`, and the
`gap` = (cost - reference) / reference. None of them may contradict another, and a cost in an error that the certificate
recomputes must be that error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lutc.checks import is_finite
from lutc.costs.pairs import TIE
from lutc.costs.points import TIE_WEIGHT
from lutc.measures import rounded
from lutc.table.table_set import TableSet

_AGREE = 1e-4  # figures have six digits; a gap is a difference of two of them
_FACTS = ("cost", "optimum", "lower_bound", "gap")
_ALL = ""  # where a shared set states one number
EXACT_LINES = "real lines without any error"  # what a bound is of, where rounding the coefficients is all there is
_OF_OBJECTIVE = {"squared": "mean_squared", "absolute": "mean_absolute", "maximum": "worst_absolute"}


def relative_gap(cost: float, reference: float) -> float:
    """(cost - reference) / max(reference, 1e-12), to 6 digits; rounding noise below 1e-9 counts as none."""
    gap = (cost - reference) / max(reference, 1e-12)
    return 0.0 if abs(gap) < 1e-9 else rounded(gap)


def contradictions(tables: TableSet, found: Mapping) -> list[str]:
    """Where the record of the search contradicts itself or `found`, the recomputed certificate: one line each."""
    search = tables.meta.get("search")
    if not isinstance(search, Mapping):
        return []
    if "cost" in search:
        record = {name: _by_table(search[name]) for name in _FACTS if name in search}
    else:  # floating-point tables over cut points have a record each
        own = {key: facts for key, facts in search.items() if isinstance(facts, Mapping) and set(_FACTS) & set(facts)}
        record = {name: {key: facts[name] for key, facts in own.items() if name in facts} for name in _FACTS}
    if malformed := list(_malformed(record, tables)):
        return malformed
    lines: list[str] = []
    for key in {key: None for by_key in record.values() for key in by_key}:
        facts = {name: by_key[key] for name, by_key in record.items() if key in by_key}
        error = _certified(tables, found, key)
        cost = facts.get("cost", error)  # the classic search's own cost is of other samples
        if cost is None:
            lines.append(f"{_told(next(iter(facts)), key)} stands without the cost of a table")
            continue
        lines += _against_itself(key, cost, facts)
        if (
            "cost" in facts
            and error is not None
            and abs(cost - error) > _AGREE * error + 1e-15 + _ties(tables, found, key)
        ):
            lines.append(f"{_told('cost', key)} is {cost:g}, but the table's error is {error:g}")
    return lines


def _by_table(fact: object) -> Mapping:
    """A fact by key; one of a shared set, a number for all its tables, stands at _ALL."""
    return fact if isinstance(fact, Mapping) else {_ALL: fact}


def _told(name: str, key: str) -> str:
    return f"search.{name}.{key}" if key != _ALL else f"search.{name}"


def _malformed(record: Mapping, tables: TableSet) -> Iterator[str]:
    """Where a fact is no finite number for a table of the file."""
    for name, by_key in record.items():
        for key, value in by_key.items():
            if key != _ALL and key not in tables:
                yield f"{_told(name, key)} is of no table of the file ({', '.join(tables)})"
            elif not is_finite(value):
                yield f"{_told(name, key)} is {value!r:.40}, no finite number"


def _against_itself(key: str, cost: float, facts: Mapping) -> list[str]:
    lines = []
    for name in ("optimum", "lower_bound"):
        reference = facts.get(name)
        if reference is None:
            continue
        if cost < reference * (1 - _AGREE) - 1e-12:
            lines.append(f"{_told('cost', key)} is {cost:g}, below its {name.replace('_', ' ')} {reference:g}")
        gap = facts.get("gap")
        wanted = relative_gap(cost, reference)
        if gap is not None and abs(gap - wanted) > _AGREE * (1 + abs(wanted)) + 2e-6 * cost / max(reference, 1e-12):
            lines.append(f"{_told('gap', key)} is {gap:g}, but cost and {name.replace('_', ' ')} make it {wanted:g}")
    if "gap" in facts and not {"optimum", "lower_bound"} & facts.keys():
        lines.append(f"{_told('gap', key)} is {facts['gap']:g}, of no optimum or bound that the file names")
    return lines


def _ties(tables: TableSet, found: Mapping, key: str) -> float:
    """What decides ties may add to a cost: points between the codes, no more than where floats are worst, or in output
    codes the real error, no more than at the worst code.
    """
    if tables.meta.get("objective") == "codes":
        return TIE * (found[key]["range"]["worst_absolute"]["error"] / tables.meta["output"]["scale"]) ** 2
    worst = found[key].get("float", {}).get("worst_absolute", {"error": 0.0})["error"]
    return TIE_WEIGHT * worst**2


def _certified(tables: TableSet, found: Mapping, key: str) -> float | None:
    """The error that the search's cost is, where the certificate has it: over the inputs in the range, all alike."""
    name = _OF_OBJECTIVE.get(str(tables.meta.get("objective")))
    found_by = tables.meta["search"].get("name")  # the greedy search's cost is of its bound
    floats = tables.meta.get("float_inputs")
    plain = found_by != "greedy" and key in tables and tables[key].prologue is None and "weights" not in tables.meta
    if plain and tables.meta.get("objective") == "codes" and "output" in found.get(key, {}):
        return found[key]["output"]["squared"] / found[key]["output"]["inputs"]
    if name is None or not plain or key not in found:
        return None
    figures = found[key]["range"] if key in tables.inputs else found[key].get(floats, {}).get("range", {})
    if name not in figures:
        return None
    error = figures[name]
    return error["error"] if isinstance(error, Mapping) else error
