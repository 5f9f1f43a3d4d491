"""What a patch did, and what it found and left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lutc.nn.patching.auditing import Audit


@dataclass(frozen=True)
class Replaced:
    """`path`: qualified name of the module (with ' ()' for a call in its forward); `what`: function or operator; `by`:
    the table's name; `note`: the error of a table that was made for the place, and where it ends.
    """

    path: str
    what: str
    by: str
    note: str = ""


@dataclass(frozen=True)
class Left:
    """Found and not replaced, and why."""

    path: str
    what: str
    why: str


@dataclass(frozen=True)
class Refused:
    """Why there is no operator for a function that was found. silent: not even worth a word where only its being a leaf
    made it a candidate.
    """

    why: str
    silent: bool = False


@dataclass
class Report:
    """Of one call of `patch`: `replaced` and `left`, in the order of the model's modules; `unused`, tables that found
    no place (what they are of, and their names); `audits`, what the model ran before and after, where a batch was
    given. `str(report)` is a table.
    """

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)
    audits: tuple[Audit, Audit] | None = None

    def __str__(self) -> str:
        rows = [("replaced", r.path, r.what, f"by {r.by}{f': {r.note}' if r.note else ''}") for r in self.replaced] + [
            ("left", e.path, e.what, e.why) for e in self.left
        ]
        rows += [("unused", name, what, "found no place") for what, name in self.unused]
        if not rows:
            return "nothing found"
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]])
            for row in rows
        ]
        if self.audits is not None:
            before, after = (sum(one.calls for one in audit.exact) for audit in self.audits)
            lines += ["", f"exact operations on the batch: {before} calls before, {after} now; what runs now:"]
            lines.append(str(self.audits[1]))
        return "\n".join(lines)
