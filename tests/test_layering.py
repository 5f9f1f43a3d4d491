"""Imports run down the house, in no circle; those inside functions are there to keep a heavy library away until it is
used.
"""

import ast
import re
from collections import Counter

from tests.helpers import imports

FOUND = imports.imports()
HEAVY = {
    "accelerate", "deap", "gguf", "matplotlib", "mpmath", "numba", "safetensors", "scipy", "sklearn", "torch", "tqdm",
    "transformers", "triton",
}  # fmt: skip


def test_every_room_has_its_floor():
    rooms = {imports.room_of(name) for name in imports.modules()} - {""}
    assert rooms == set(imports.FLOOR)


def test_no_import_runs_up():
    assert [f"{one.path}:{one.line} imports {one.module}" for one in imports.upward(FOUND)] == []


def test_no_circles():
    assert imports.circles(FOUND) == []


def test_a_circle_and_an_import_upward_are_found():
    def arrow(source, target):
        return imports.Import("x.py", 1, source, target, inside=False, typing=False)

    up = arrow("lutc.table.table", "lutc.nn.lut")
    assert imports.upward([up, arrow("lutc.nn.lut", "lutc.table.table")]) == [up]
    ring = [arrow("lutc.a.x", "lutc.b.y"), arrow("lutc.b.y", "lutc.c.z"), arrow("lutc.c.z", "lutc.a.x")]
    assert imports.circles(ring) == [("lutc.a.x", "lutc.b.y", "lutc.c.z")] and imports.circles(ring[:2]) == []


def test_imports_inside_functions_say_what_they_keep_away():
    """`# brings torch` beside the import; nothing else is a reason."""
    silent = []
    for one in FOUND:
        if one.inside:
            line = (imports.ROOT / one.path).read_text(encoding="utf-8").splitlines()[one.line - 1]
            reason = re.search(r"# brings ([\w, ]+)$", line)
            if not reason or not set(reason[1].split(", ")) <= HEAVY:
                silent.append(f"{one.path}:{one.line}: {line.strip()}")
    assert silent == []


def test_a_name_of_a_class_means_one_thing():
    public = Counter(
        node.name
        for package in ("lutc", "kernels")
        for path in (imports.ROOT / package).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in public.items() if count > 1] == []
