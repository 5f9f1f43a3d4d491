"""The example of fine-tuning with tables runs from end to end, and its parts do what they say."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("pydoc_data.topics")


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).resolve().parents[2] / "examples" / "finetune_tables.py"
    spec = importlib.util.spec_from_file_location("finetune_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quick_run_prints_every_row(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune_tables.py", "--quick", "--seeds", "0"])
    example.main()
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^(\S.*?)(?: \[[AB]\])? +([\d.]+) +0.00 ", printed, re.MULTILINE))
    tables = {f"tables of {n} entries, {how}trained on" for n in (8, 3) for how in ("", "not ")}
    assert set(rows) == {"float", example.EXACT, example.AS_LONG} | tables
    assert all(5 < float(value) < 40 for value in rows.values())  # a blank is every sixth letter


def test_accuracy_counts_letters(example):
    class Next(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot((x + 1) % 128, 128).float()

    letters = torch.arange(3 * example.CONTEXT + 1) % 128
    assert example.accuracy(Next(), letters) == 100.0
    letters[5] = 77  # neither foreseen nor a help
    assert example.accuracy(Next(), letters) == pytest.approx(100 - 200 / (3 * example.CONTEXT))


def test_topics_are_not_shared(example):
    data = example.texts()
    sizes = {name: len(part) for name, part in data.items()}
    total = sum(sizes.values())
    assert 0.7 < sizes["train"] / total < 0.9 and min(sizes.values()) > 0.05 * total
    whole = bytes(torch.cat(list(data.values())).tolist())
    topics = __import__("pydoc_data.topics").topics.topics.values()
    ends = {0}
    for name in ("train", "validation"):
        ends.add(max(ends) + sizes[name])
    for topic in topics:  # each lies on one side of every cut
        start = whole.index(topic.encode("ascii", "replace"))
        assert not any(start < end < start + len(topic) for end in ends)
