"""The import graph of the package, read with ast: every `from lutc...` and `import lutc...`, those inside functions
too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The house, from what a user calls down to what everything stands on; imports run down this list, never up. One line is
# one floor.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("plots",),
    ("folder",),
    ("evaluation",),
    ("executorch", "litert"),
    ("onnx",),
    ("observe",),
    ("nn",),
    ("taylor",),
    ("fplut",),
    ("explore",),
    ("compiler",),
    ("hardware",),
    ("kernels",),
    ("search",),
    ("lower",),
    ("certify",),
    ("costs",),
    ("calibration",),
    ("samples",),
    ("table",),
    ("models",),
    ("functions",),
    ("formats",),
    ("checks", "files", "jit", "lazy", "measures"),
    ("errors",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True)
class Import:
    """One import of `module` (dotted, a name of the package's own) at path:line, in a function or for
    annotations only.
    """

    path: str
    line: int
    source: str
    module: str
    inside: bool
    typing: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return room_of(self.source), room_of(self.module)


def room_of(module: str) -> str:
    """The folder or root file of a dotted module: lutc.nn.cpu.lines -> nn; lutc -> ""."""
    return module.split(".")[1] if "." in module else ""


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package, kernels included."""
    found = {}
    for path in sorted([*(ROOT / "lutc").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "lutc" else ("lutc", *parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> list[Import]:
    """Every import of the package by the package."""
    known = modules()
    return [found for name, path in known.items() for found in _imports_of(name, path, known)]


def _imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside, typing = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside.update(id(child) for child in ast.walk(node))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lutc":
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            targets = sorted({found if found in known else node.module for found in whole})
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name.split(".")[0] == "lutc"]
        else:
            continue
        for target in targets:
            where = str(path.relative_to(ROOT))
            yield Import(where, node.lineno, name, target, id(node) in inside, id(node) in typing)


def upward(found: list[Import]) -> list[Import]:
    """Imports that run up the floors, or across one. Annotations count; `import lutc` for its version does not."""
    ups = []
    for one in found:
        here, there = one.rooms
        if here and there and here != there and FLOOR[there] <= FLOOR[here]:
            ups.append(one)
    return ups


def circles(found: list[Import]) -> list[tuple[str, ...]]:
    """Circles among modules: strongly connected sets of more than one, with imports inside functions and without
    annotations.
    """
    graph: dict[str, set[str]] = {}
    for one in found:
        if not one.typing and one.source != one.module and one.module != "lutc":
            graph.setdefault(one.source, set()).add(one.module)
            graph.setdefault(one.module, set())
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result = []

    def visit(node: str) -> None:  # Tarjan
        index[node] = low[node] = len(index)
        stack.append(node)
        for after in graph[node]:
            if after not in index:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], index[after])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                result.append(tuple(sorted(component)))

    for node in list(graph):
        if node not in index:
            visit(node)
    return sorted(result)
