"""Work on several threads: a task (`lutc.nn.cpu.base`) over a range, in parts that the threads claim one after another.

The threads are those of torch's own loops, through the OpenMP runtime that torch is linked to. A pool of our own beside
them made every call that followed an operation of torch's wait: OpenMP's threads go on looking for work for some
milliseconds, on the cores that ours needed. Where torch has no such runtime (macOS, Windows), and in a forked process,
where OpenMP's threads are gone and a call would wait for ever, a pool serves. Not numba's threads either: its OpenMP
layer ends a forked process, its work queue any process that calls from two threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numba
import torch

from lutc.nn.cpu.base import Native, call_task, counted, integers, packed

_PARTS = 4  # for each thread: so many that one which is held up does not hold up all


@functools.partial(Native, signature=numba.types.void(numba.types.int64))
def _member(team):
    """What each thread does. team: the part to be claimed next, parts, their size, the end, task, job."""
    numbers = integers(team)
    parts, step, end, task, job = numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
    while True:
        part = counted(team)
        if part >= parts:
            return
        call_task(task, part * step, min(part * step + step, end), job)


@functools.cache
def _openmp():
    """GOMP_parallel(function, data, threads or 0 for torch's number, flags) of torch's OpenMP runtime; None where there
    is none.
    """
    try:
        start = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return start


def run(task: Native, size: int, least: int, job: ctypes.Array, threads: int, multiple: int = 1) -> None:
    """task(first, last, job) over [0, size), on up to `threads` threads where there are `least` elements for each of
    two.

    Parts begin at multiples of `multiple`. job: int64; it and what its addresses point to must live until this returns.
    """
    at_job = ctypes.addressof(job)
    if threads < 2 or size < 2 * least:
        task.call(0, size, at_job)
        return
    step = max(least, -(-size // (_PARTS * threads)))
    step = -(-step // multiple) * multiple
    parts = -(-size // step)
    team = packed(0, parts, step, size, task.address, at_job)
    at_team = ctypes.addressof(team)
    start = None if _forked else _openmp()
    if start is not None:
        # torch's number of threads, whatever `parts`: libgomp ends those above a number that it is given, and starts
        # them anew for torch
        start(_member.address, at_team, 0, 0)
        return
    members = [_pool(threads).submit(_member.call, at_team) for _ in range(min(threads, parts) - 1)]
    try:
        _member.call(at_team)
    finally:
        wait([member for member in members if not member.cancel()])


_forked = False
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="lutc")
        return _pools[threads]


def _after_fork() -> None:
    """Threads do not survive a fork, and a lock may be held by one of them."""
    global _lock, _forked
    _lock, Native._lock, _forked = threading.Lock(), threading.Lock(), True
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
