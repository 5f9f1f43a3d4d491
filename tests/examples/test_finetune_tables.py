"""The example of fine-tuning with tables runs from end to end, and its parts do what they say."""

import importlib.util
import math
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
    found = re.findall(r"^(\S.*?)(?: \[[AB]\])? +([\d.]+) +0.000 ", printed, re.MULTILINE)
    bits, right = (dict(rows) for rows in (found[: len(found) // 2], found[len(found) // 2 :]))
    tables = {f"tables of {n} entries, {how}trained on" for n in example.ENTRIES for how in ("", "not ")}
    assert set(bits) == set(right) == {"float", example.EXACT, example.AS_LONG} | tables
    assert all(3 < float(value) < 6 for value in bits.values())  # 7 bits a letter to begin with
    assert all(5 < float(value) < 40 for value in right.values())  # a blank is every sixth letter


def test_bits_and_accuracy_are_of_letters(example):
    class Next(torch.nn.Module):
        """Half of the probability on the letter that follows in the alphabet, the rest on all others alike."""

        def forward(self, x):
            return torch.where(torch.nn.functional.one_hot((x + 1) % 128, 128).bool(), 0.5, 0.5 / 127).log()

    letters = torch.arange(3 * example.CONTEXT + 1) % 128
    assert example.judge(Next(), letters) == (pytest.approx(1.0, rel=1e-5), 100.0)
    letters[5] = 77  # neither foreseen nor a help
    wrong = 2 / (3 * example.CONTEXT)
    assert example.judge(Next(), letters) == (
        pytest.approx(1 + wrong * math.log2(127), rel=1e-5),
        pytest.approx(100 * (1 - wrong)),
    )


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
