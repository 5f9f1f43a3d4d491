"""The house in figures: rooms, arrows, circles, imports upward and inside functions, long files, annotated functions.

python benchmarks/house.py
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers import imports  # noqa: E402


def annotated() -> tuple[int, int, list[str]]:
    """(public functions whose arguments and result are all annotated, public functions, where the others are)."""
    done, every, rest = 0, 0, []
    for path in imports.modules().values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
        for scope in scopes:
            for node in scope.body:
                if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
                    continue
                if any("jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                    continue  # numba's and Triton's functions take what they are compiled for
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if isinstance(scope, ast.ClassDef) and "staticmethod" not in map(ast.unparse, node.decorator_list):
                    arguments = arguments[1:]
                every += 1
                if node.returns is not None and all(argument.annotation is not None for argument in arguments):
                    done += 1
                else:
                    rest.append(f"{path.relative_to(imports.ROOT)}:{node.lineno} {node.name}")
    return done, every, rest


def main() -> None:
    found, known = imports.imports(), imports.modules()
    rooms = {imports.room_of(name) for name in known} - {""}
    arrows = {one.rooms for one in found if all(one.rooms) and one.rooms[0] != one.rooms[1]}
    longest = max(known.values(), key=lambda path: len(path.read_text(encoding="utf-8").splitlines()))
    done, every, rest = annotated()
    rows = {
        "rooms at the root, folders and files": len(rooms),
        "arrows between them": len(arrows),
        "circles among modules": len(imports.circles(found)),
        "imports upward": len(imports.upward(found)),
        "imports inside functions": sum(one.inside for one in found),
        "longest file": f"{longest.relative_to(imports.ROOT)}, {len(longest.read_text().splitlines())} lines",
        "public functions annotated": f"{done} of {every}, {100 * done / every:.0f} %",
    }
    for name, value in rows.items():
        print(f"{name:40s}{value}")
    if "--rest" in sys.argv:
        print(*rest, sep="\n")


if __name__ == "__main__":
    main()
