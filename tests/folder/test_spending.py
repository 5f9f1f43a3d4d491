"""Entries by a budget: kept on the model itself, spent where it pays, refused where nothing helps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lutc
from lutc.errors import LutcError
from lutc.evaluation.running import evaluate
from lutc.folder import manifest, spending
from lutc.folder.applying import FolderVariant
from lutc.folder.jobs import TableChoice
from lutc.folder.spending import LADDER, fewest

pytest.importorskip("transformers")
from tests.helpers import tiny_models  # noqa: E402

IDS = torch.randint(0, 50, (3, 24), generator=torch.Generator().manual_seed(1))
BATCHES = [{"input_ids": ids[None]} for ids in IDS]


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), st.floats(1e-6, 1e3))
def test_fewest_keeps_the_budget_and_nothing_can_be_taken_back(prices, budget):
    """Costs fall as price / entries^4, as errors of lines do."""
    places = [str(i) for i in range(len(prices))]

    def cost(path, n):
        return prices[int(path)] / n**4

    own = fewest(places, budget, cost)
    total = sum(cost(path, n) for path, n in own.items())
    if total > budget:
        assert set(own.values()) == {LADDER[-1]}
        return
    assert set(own.values()) <= set(LADDER)
    last = max(places, key=lambda path: own[path] > LADDER[0])
    if own[last] > LADDER[0]:  # without its last step some place would be above the budget
        lower = [
            total - cost(path, n) + cost(path, LADDER[LADDER.index(n) - 1]) for path, n in own.items() if n > LADDER[0]
        ]
        assert max(lower) > budget


def test_where_errors_cost_more_there_are_more_entries():
    own = fewest(["dear", "cheap"], 1.0, lambda path, n: {"dear": 1e4, "cheap": 10.0}[path] / n**3)
    assert own["dear"] > own["cheap"] == LADDER[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spent") / "tables"
    # codes of 10 bits, so that entries are what costs
    lutc.compile_model(
        tiny_models.llama(), BATCHES, folder, bits=10, max_kl=2e-4, name="tiny", measure=False, workers=1
    )
    return folder


def measured(folder) -> float:
    return evaluate(tiny_models.llama(), [BATCHES[-1]], [FolderVariant("tables", folder)], layers=False)["tables"].kl


@pytest.mark.slow  # tables of every rung
def test_the_budget_is_kept_by_the_folder_itself(made):
    found = manifest.read(made)
    entries = {e.path: e.entries for e in found.entries if e.operator == "activation"}
    assert 0 < measured(found) <= 2e-4
    assert found.cost["spent"]["kl"] == pytest.approx(measured(found), rel=1e-5) and found.choice["max_kl"] == 2e-4
    assert entries == found.choice["own"] and len(entries) == 3
    assert not (made / "tries").exists() and len(list((made / "tables").glob("*act_fn.json"))) == 3


@pytest.mark.slow
def test_a_smaller_budget_takes_more_entries(made, tmp_path):
    lutc.compile_model(
        tiny_models.llama(), BATCHES, tmp_path / "t", bits=10, max_kl=6e-5, name="tiny", measure=False, workers=1
    )
    more = manifest.read(tmp_path / "t")
    assert measured(more) <= 6e-5
    assert sum(more.choice["own"].values()) > sum(manifest.read(made).choice["own"].values())
    # and no table is larger than its rung says
    assert all(np.isin(e.entries, range(2, more.choice["own"][e.path] + 1)) for e in more.entries if e.inputs)


@pytest.mark.slow
def test_a_budget_that_codes_alone_exceed(tmp_path):
    with pytest.raises(LutcError, match="the exact functions on the same codes have .*take more `bits`"):
        lutc.compile_model(tiny_models.llama(), BATCHES, tmp_path / "t", bits=4, max_kl=1e-9, measure=False, workers=1)
    assert not (tmp_path / "t").exists()


def test_what_has_no_budget(tmp_path):
    for options, match in (
        ({"max_kl": -1.0}, "positive number of nats"),
        ({"max_kl": 1e-3, "activations": "fplut"}, "here are none"),
    ):
        with pytest.raises(LutcError, match=match):
            lutc.compile_model(tiny_models.llama(), BATCHES[:1], tmp_path / "t", measure=False, workers=1, **options)


@pytest.mark.slow
def test_models_without_logits_are_refused(tmp_path):
    with pytest.raises(LutcError, match="next-token logits"):
        lutc.compile_model(tiny_models.bert(), BATCHES, tmp_path / "t", max_kl=1e-3, measure=False, workers=1)


class Steps:
    """A ladder of 20 places whose errors fall as entries^-4, and no model behind it."""

    rungs = {entries: {str(i): None for i in range(20)} for entries in LADDER}

    def __init__(self, budget):
        self.choice = TableChoice(max_kl=budget)

    def error(self, path, entries):
        return (1 + int(path)) / entries**4


@pytest.mark.parametrize("floor", [0.0, 0.6])
@pytest.mark.parametrize("budget", [1e-2, 1e-3])
@pytest.mark.parametrize("off", [0.2, 5.0])
def test_the_choice_comes_near_the_budget_where_prices_are_wrong(floor, budget, off, monkeypatch):
    """The whole costs `off` times what its places cost alone, and a part of the budget whatever the entries."""
    ladder, measured = Steps(budget), []

    def kl(own):
        return floor * budget + sum(off * 2e-2 * ladder.error(path, n) for path, n in own.items())

    def measure(model, batch, given, own, told, codes=False):
        measured.append(own)
        return kl(own), 0.0, 100

    monkeypatch.setattr(spending, "_measured", measure)
    monkeypatch.setattr(spending, "_prices", lambda model, few, given, places, told: dict.fromkeys(places, 2e-2))
    found = spending.spend(None, None, None, ladder, lambda stage, number: None)
    assert found.kl == kl(found.own) <= budget and len(measured) <= 7
    sums = [budget * 2 ** (step / 4) for step in range(-24, 12)]
    ways = [fewest(list(ladder.rungs[4]), one, lambda path, n: 2e-2 * ladder.error(path, n)) for one in sums]
    least = min(sum(own.values()) for own in ways if kl(own) <= budget)
    assert sum(found.own.values()) <= 1.1 * least
