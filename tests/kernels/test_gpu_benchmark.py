"""What benchmarks/gpu.py does around its measurements: rows in a CSV file by section, resumed, within a time."""

import csv
import subprocess
import time
from functools import partial

import pytest

pytest.importorskip("triton")

from benchmarks import gpu  # noqa: E402

HERE, OTHER = gpu.Machine("a card", "1", "2", "3"), gpu.Machine("another", "1", "2", "3")


def sections(calls, fails=False):
    def first():
        calls.append("first")
        yield "one, two", 2.0, "copy", 1.0
        yield "three", 3.0, "", 0.0

    def second():
        calls.append("second")
        yield "four", 4.0, "copy", 8.0
        if fails:
            raise RuntimeError("no room")

    return {"first": first, "second": second}


def test_a_section_is_measured_once_for_a_card(tmp_path, capsys):
    path, calls = tmp_path / "gpu.csv", []
    found, left = gpu.run(sections(calls, fails=True), path, HERE, 60)
    assert [row.what for row in found] == ["one, two", "three"] and left == ["second"]
    assert "second: RuntimeError: no room" in capsys.readouterr().out
    found, left = gpu.run(sections(calls), path, HERE, 60)
    assert [row.what for row in found] == ["one, two", "three", "four"] and not left
    assert calls == ["first", "second", "second"]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["card"] for row in rows] == ["a card"] * 3 and rows[0]["what"] == "one, two"
    text = gpu.markdown(found, HERE)
    assert text.startswith("a card, torch 1") and "| four | 4.0000 | copy | 8.0000 | 0.50 |" in text
    assert all(line.count("|") == 6 for line in text.splitlines()[2:])
    assert [row.what for row in gpu.run(sections(calls), path, OTHER, 60)[0]] == ["one, two", "three", "four"]
    assert calls[3:] == ["first", "second"] and len(gpu.read(path, HERE)) == len(gpu.read(path, OTHER)) == 3


def test_nothing_begins_when_the_time_is_up(tmp_path):
    path, calls = tmp_path / "gpu.csv", []
    found, left = gpu.run(sections(calls), path, HERE, 0)
    assert not found and left == ["first", "second"] and not calls and not path.exists()


def test_every_section_is_named_in_the_help():
    for name, section in gpu.SECTIONS.items():
        assert name in gpu.__doc__ and section.__doc__


def test_the_tests_end_with_the_time_and_are_still_to_do(tmp_path, monkeypatch, capsys):
    given = {}

    def hang(command, timeout, **_):
        given["timeout"] = timeout
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", hang)
    found, left = gpu.run({"tests": partial(gpu.tests, time.perf_counter() + 30)}, tmp_path / "gpu.csv", HERE, 30)
    assert not found and left == ["tests"] and 20 < given["timeout"] <= 30
    assert "tests: TimeoutExpired" in capsys.readouterr().out
