"""How long the compiler takes, as whole processes in one run, and how its costs and searches grow with samples and
entries.

    python benchmarks/compile_time.py [--quick]

Prints three tables: one `lutc compile`, `import numpy` and `import lutc` beside it; all shipped int8 tables, two at a
time; and, one child process per row, the seconds of building costs and of each search and the child's peak memory.
--quick leaves out the shipped tables and everything beyond 4,096 samples.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPEATS = 5

# One row of the scaling table, in a process of its own so that peak memory is its own.
ROW = """
import json, resource, sys, time
from lutc import functions
from lutc.compiler import pipeline
from lutc.costs import DENSE_LIMIT, Points, squared_costs
from lutc.compiler.problem import prepare
from lutc.compiler.request import Request
from lutc.formats import Inputs
from lutc.search.exact import exact
from lutc.search.genetic import genetic
from lutc.compiler.solve import GENETIC_LIMIT

bits, entries, name = json.loads(sys.argv[1])
fn = functions.get("gelu")
inputs = (Inputs(bits, 8.0 / 2**bits),) if name == "codes" else name
coefficients = "q1.6" if name == "codes" else name
request = Request.of("gelu", entries, inputs=inputs, coefficients=coefficients)
problem, (task,) = prepare(request)
seconds = {}

def timed(label, call):
    start = time.perf_counter()
    result = call()
    seconds[label] = time.perf_counter() - start
    return result

if len(task.samples) <= DENSE_LIMIT:
    costs = timed("costs", lambda: squared_costs(Points.of(task.samples), problem.format, problem.left, problem.right))
    timed("exact", lambda: exact(costs, entries))
    if len(task.samples) <= GENETIC_LIMIT:  # beyond, the compiler takes it over candidates
        timed("genetic", lambda: genetic(costs, entries))
record = {}
# A genome of 255 cuts takes the genetic search minutes.
for search in ("exact", "genetic") if entries <= 64 else ("exact",):
    settings = {"inputs": inputs, "coefficients": coefficients, "search": search}
    tables = timed("compile " + search, lambda: pipeline.compile("gelu", entries, **settings))
    record[search] = next(iter(tables.meta["search"]["gap"].values()))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
proven = "optimum" in tables.meta["search"]
print(json.dumps({"samples": len(task.samples), "seconds": seconds, "gap": record, "MiB": peak, "proven": proven}))
"""


def seconds(command: list[str], **options) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, **options)
    return time.perf_counter() - start


def one_table(folder: str) -> None:
    """Runs alternate, so that a busy machine hits all of them alike."""
    commands = {
        "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
        "python -c 'import lutc'": [sys.executable, "-c", "import lutc"],
        "lutc compile gelu --entries 8": [
            sys.executable,
            "-m",
            "lutc",
            "compile",
            "gelu",
            "--entries",
            "8",
            "-o",
            f"{folder}/gelu_8.json",
        ],
        "... --search exact": [
            sys.executable,
            "-m",
            "lutc",
            "compile",
            "gelu",
            "--entries",
            "8",
            "--search",
            "exact",
            "-o",
            f"{folder}/gelu_8.json",
        ],
    }
    times = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    print(f"{'whole process':<34}{'median s':>10}{'fastest s':>11}")
    for name, values in times.items():
        print(f"{name:<34}{statistics.median(values):>10.2f}{min(values):>11.2f}")


def shipped_commands(folder: str) -> list[list[str]]:
    """The commands that `make -n pretrained` shows for the int8 tables, writing to `folder`."""
    shown = subprocess.run(
        ["make", "-n", "pretrained", f"OUT={folder}"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    lines = {line.strip() for line in shown.splitlines() if re.search(r"lutc compile .*--search genetic", line)}
    return [[sys.executable, "-m", "lutc", *line.split()[1:]] for line in sorted(lines)]


def all_tables(folder: str) -> None:
    commands = shipped_commands(folder)
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda command: seconds(command, env=os.environ | {"OMP_NUM_THREADS": "1"}), commands))
    print(f"\nall {len(commands)} shipped int8 tables, two processes at a time: {time.perf_counter() - start:.1f} s")


def scaling(quick: bool) -> None:
    rows = [(8, entries, "codes") for entries in (16, 32, 64)]
    rows += [(bits, 8, "codes") for bits in (8, 9, 10, 11, 12, 14, 16)] + [(16, 8, "bf16"), (16, 8, "fp16")]
    rows += [(12, entries, "codes") for entries in (16, 32, 64, 128, 256)] + [(16, 64, "fp16"), (16, 256, "fp16")]
    columns = ("costs", "exact", "genetic", "compile exact", "compile genetic")
    print(
        f"\n{'gelu':<8}{'bits':>5}{'samples':>9}{'entries':>9}"
        + "".join(f"{c:>17}" for c in columns)
        + f"{'gap':>18}{'peak MiB':>10}"
    )
    for bits, entries, name in rows:
        if quick and (bits > 12 or entries > 64):
            continue
        shown = subprocess.run(
            [sys.executable, "-c", ROW, json.dumps([bits, entries, name])],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        row = json.loads(shown.stdout)
        times = "".join(f"{row['seconds'][c]:>15.2f} s" if c in row["seconds"] else f"{'-':>17}" for c in columns)
        gap = f"{100 * list(row['gap'].values())[-1]:.2f} %" + ("" if row["proven"] else " of bound")
        print(f"{name:<8}{bits:>5}{row['samples']:>9}{entries:>9}{times}{gap:>18}{row['MiB']:>10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no shipped tables, nothing beyond 4,096 samples")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        one_table(folder)
        if not quick:
            all_tables(folder)
    scaling(quick)


if __name__ == "__main__":
    main()
