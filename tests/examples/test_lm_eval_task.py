"""The example of lm-evaluation-harness, on a tiny model."""

import json
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import lm_eval_task

sys.path.pop(0)


def test_questions(tmp_path):
    text = " ".join(f"This is sentence number {i} of a text that goes on." for i in range(40))
    lm_eval_task.write_task(tmp_path, text, 10)
    questions = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(questions) == 10
    for question in questions:
        last = int(question["context"].split()[-7])
        right = question["endings"][question["label"]]
        assert (
            f"number {last + 1} " in right and question["endings"].count(right) == 1 and len(question["endings"]) == 4
        )


@pytest.mark.slow
def test_scores(folders, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{i % 40} w3 w4 w5 w6 w7 w8 w9 w10 w11 w12." for i in range(30)))
    monkeypatch.setattr(
        sys, "argv", ["x", str(folders["llama"]), "--text", str(text), "--tables", "silu_8", "--count", "4"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the harness's own
        lm_eval_task.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "acc" in line]
    assert [line.split()[0] for line in lines] == ["exact", "silu_8"]
