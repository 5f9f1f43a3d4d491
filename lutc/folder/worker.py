"""A process that compiles a part of a folder's tables: `python -m lutc.folder.worker DIR INDEX COUNT`.

It takes every COUNT-th job of DIR/jobs.json, from INDEX on. Processes are started as a command, not forked, so that
they serve callers of any kind: a notebook, a script without a main guard, a process that runs torch's threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lutc
from lutc.calibration.file import read
from lutc.errors import LutcError
from lutc.folder.jobs import Job, dumps, loads, run
from lutc.folder.manifest import CALIBRATION

JOBS = "jobs.json"


def run_all(
    folder: Path, jobs: list[Job], workers: int, progress: Callable[[int], object] | None = None, first: int = 0,
    step: int = 1,
) -> None:  # fmt: skip
    """Compile jobs in so many processes, none where one job is left; LutcError where one fails, naming what it said.
    first, step: the part of them that is this process's own, of several that share a folder.
    """
    jobs = jobs[first::step]
    waiting = [job for job in jobs if not (folder / job.file).exists()]
    if progress is not None:
        progress(len(jobs) - len(waiting))
    name = f"{JOBS}.{first}"
    (folder / name).write_text(dumps(waiting), encoding="utf-8")
    count = min(workers, len(waiting))
    if count <= 1:
        calibration = read(folder / CALIBRATION)
        for job in waiting:
            run(job, calibration, folder)
            if progress is not None:
                progress(1)
        (folder / name).unlink()
        return
    root = str(Path(lutc.__file__).resolve().parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lutc.folder.worker", str(folder), name]
    started = [
        subprocess.Popen(
            [*command, str(index), str(count)], env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        for index in range(count)
    ]
    try:
        _wait(started, folder, waiting, progress)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()
    (folder / name).unlink()


def _wait(started, folder: Path, waiting: list[Job], progress) -> None:
    """Until all processes end, the first failure being everybody's."""
    done = 0
    while True:
        running = [process for process in started if process.poll() is None]
        for process in started:
            if process.poll():
                told = process.stderr.read().decode(errors="replace").strip().splitlines() or ["nothing"]
                raise LutcError(
                    f"a process that compiles tables ended with {process.returncode}: {told[-1]}; what is done stays: "
                    "run the same command again to go on"
                )
        now = sum((folder / job.file).exists() for job in waiting)
        if progress is not None and now > done:
            progress(now - done)
            done = now
        if not running:
            return
        time.sleep(0.05)


def main(arguments: list[str]) -> int:
    """Compile a part, as long as who started it lives; what goes wrong is one line on stderr."""
    parent = os.getppid()
    folder, name, index, count = Path(arguments[0]), arguments[1], int(arguments[2]), int(arguments[3])
    try:
        jobs, calibration = loads((folder / name).read_text(encoding="utf-8")), read(folder / CALIBRATION)
        for job in jobs[index::count]:
            if os.getppid() != parent:  # killed; who starts anew there may want other tables under the same names
                return 1
            run(job, calibration, folder)
    except LutcError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
