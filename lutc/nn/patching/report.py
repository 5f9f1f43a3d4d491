"""What a patch did, and what it found and left alone."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Replaced:
    """`path`: qualified name of the module (with ' ()' for a call in its forward); `what`: function or operator; `by`:
    the table's name.
    """

    path: str
    what: str
    by: str


@dataclass(frozen=True)
class Left:
    """Found and not replaced, and why."""

    path: str
    what: str
    why: str


@dataclass
class Report:
    """Of one call of `patch`: `replaced` and `left`, in the order of the model's modules. `str(report)` is a table."""

    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [("replaced", r.path, r.what, f"by {r.by}") for r in self.replaced] + [
            ("left", e.path, e.what, e.why) for e in self.left
        ]
        if not rows:
            return "nothing found"
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]])
            for row in rows
        )
