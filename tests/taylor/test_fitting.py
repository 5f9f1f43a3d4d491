import numpy as np
import pytest
import torch
from torch import nn

from lutc import taylor
from lutc.errors import LutcError
from lutc.taylor.blocks import Block, find_blocks
from lutc.taylor.cluster import nearest
from lutc.taylor.collector import collect
from lutc.taylor.fitting import BlockPairs, TaylorSettings, aligned, fit
from lutc.taylor.ridge import RidgeSums, choose_strength
from lutc.taylor.sequential import fit_sequential
from lutc.taylor.table import TaylorTable
from tests.helpers.taylor_model import PATTERN


@pytest.fixture
def x():
    return torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings", [TaylorSettings(k=1), TaylorSettings(k=1, fit="taylor"), TaylorSettings(k=5, order=2)], ids=str
)
def test_linear_mlp_is_reproduced_exactly(x, settings):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(6, 20), nn.Identity(), nn.Linear(20, 4)).eval()
    table = fit(linear, x, settings)
    torch.testing.assert_close(table(x), linear(x).detach(), rtol=1e-5, atol=1e-5)
    assert table.info["certificate"]["relative_error"] < 1e-11


def test_first_order_is_exact_in_piecewise_linear_regions():
    """relu on data that stays inside one orthant around each centre: the expansion alone is exact."""
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()).eval()
    relu[0].weight.data = torch.eye(2)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    x = corners.repeat(500, 1) + 0.4 * (2 * torch.rand(2000, 2) - 1)
    table = fit(relu, x, TaylorSettings(k=4, fit="taylor"))
    torch.testing.assert_close(table(x), relu(x).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("strength", [0.5, 20.0])
@pytest.mark.parametrize("order", [1, 2])
def test_ridge_is_the_closed_form_solution(strength, order):
    """numpy, with rows of sqrt(penalty) below the data: least squares of the augmented system."""
    rng = np.random.default_rng(0)
    n, d, o, k = 900, 4, 3, 3
    x, y, weight = rng.normal(size=(n, d)), rng.normal(size=(n, o)), rng.uniform(0.5, 2, n)
    centres, values = rng.normal(size=(k, d)), rng.normal(size=(k, o))
    slopes = rng.normal(size=(k, o, d * order))
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (x, y, weight, centres, values, slopes)]
    owner = nearest(tensors[0], tensors[3])
    moments = RidgeSums(k, d * order + 1, o, 1 << 30)
    prior = TaylorTable(*tensors[3:], torch.zeros(k, dtype=torch.int64))
    for rows in torch.arange(n).split(400):
        moments.add(tensors[0][rows], tensors[1][rows], owner[rows], tensors[2][rows], prior)
    found = moments.solve(strength, torch.arange(k)).numpy()
    z = x - centres[owner.numpy()]
    features = np.concatenate([z, z * z / 2][:order], 1)
    scale = (features**2 * weight[:, None]).sum(0) / weight.sum()
    for index in range(k):
        rows = owner.numpy() == index
        f = np.concatenate([features[rows], np.ones((rows.sum(), 1))], 1) * np.sqrt(weight[rows])[:, None]
        r = (y[rows] - values[index] - features[rows] @ slopes[index].T) * np.sqrt(weight[rows])[:, None]
        penalty = np.diag(np.sqrt(np.append(strength * scale * weight.mean(), 1e-6 * weight.mean())))
        expected = np.linalg.lstsq(np.vstack([f, penalty]), np.vstack([r, np.zeros((len(penalty), o))]), rcond=None)[0]
        np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-4)
        error = ((r - f @ found[index]) ** 2).sum()
        assert float(moments.error(torch.tensor(found[[index]]), torch.tensor([index]))) == pytest.approx(
            error, rel=1e-4
        )


def test_strength_is_the_best_on_held_out_samples(block, x):
    settings = TaylorSettings(k=3)
    table = fit(block, x, settings)
    errors = {}
    samples = BlockPairs(block, x)
    prior = fit(block, x, TaylorSettings(k=3, fit="taylor"), centres=table.centres)
    moments = {}
    for held_out in (False, True):
        moments[held_out] = RidgeSums(3, 7, 5, 1 << 30)
        for a, b in samples.pairs(held_out):
            moments[held_out].add(a, b, nearest(a, prior.centres), torch.ones(len(a)), prior)
    for strength in (0.1, 5.0, 1e4, float("inf")):
        correction = moments[False].solve(strength, torch.arange(3)).float()
        slopes, values = prior.slopes + correction[:, :-1].transpose(1, 2), prior.values + correction[:, -1]
        held = x[9::10]
        a = nearest(held, prior.centres)
        y = values[a] + torch.einsum("nod,nd->no", slopes[a], held - prior.centres[a])
        errors[strength] = float((y - block(held)).square().sum())
    assert choose_strength(moments[False], moments[True], tuple(errors)) == min(errors, key=errors.get)


def test_ridge_beats_taylor_and_more_centres_beat_fewer(block, x):
    error = {}
    for k, kind in [(2, "taylor"), (2, "ridge"), (30, "ridge")]:
        error[k, kind] = fit(block, 3 * x, TaylorSettings(k=k, fit=kind)).info["certificate"]["relative_error"]
    assert error[30, "ridge"] < error[2, "ridge"] < error[2, "taylor"]


def test_certificate_is_measured_on_the_stored_table(block, x):
    for format in ("fp32", "int8"):
        table = fit(block, x, TaylorSettings(k=4, format=format, fallback=0.1))
        held = x[9::10]
        y, wanted, far = table(held), block(held), table.beyond(held)
        error = ((y - wanted).square().sum(1) * ~far).sum() / (wanted - wanted.mean(0)).square().sum()
        certificate = table.info["certificate"]
        assert certificate["relative_error"] == pytest.approx(float(error), rel=1e-4)
        assert certificate["fallback"] == pytest.approx(0.1, abs=0.01)
        assert certificate["multiply_adds"] == round(4 * 6 + 6 * 5 + certificate["fallback"] * (6 * 24 + 24 * 5))
        assert certificate["exact_multiply_adds"] == 6 * 24 + 24 * 5
        assert sum(certificate["centres"]["held_out"]) == 400
    bytes_int8 = 4 * (6 * 5 + 2 * 6 + 2 * 5 + 4 * 5 + 4)  # slopes, centres, values, scales of rows, radii
    bytes_int8 += 4 * 6  # scales of columns
    assert certificate["storage_bytes"] == bytes_int8


def test_same_settings_give_the_same_table(block, x):
    first, second = (fit(block, x, TaylorSettings(k=6, format="fp16")) for _ in range(2))
    assert torch.equal(first.slopes, second.slopes)
    assert first.info == second.info


def test_given_centres_are_kept(block, x):
    table = fit(block, x, TaylorSettings(k=99), centres=x[:3])
    assert torch.equal(table.centres, x[:3])
    assert table.info["settings"]["k"] == 3


def test_aligned_streams():
    a, b = torch.arange(10), torch.arange(10) + 100
    pairs = list(aligned(iter(a.split(3)), iter(b.split(4))))
    assert torch.equal(torch.cat([x for x, _ in pairs]) + 100, torch.cat([y for _, y in pairs]))
    assert torch.equal(torch.cat([x for x, _ in pairs]), a)
    with pytest.raises(LutcError, match="differ in number"):
        list(aligned(iter(a.split(3)), iter(b[:7].split(4))))


def test_sequential_fits_on_the_replaced_model_and_restores_it(model, batches, tmp_path):
    exact = model(**batches[0]).detach()
    tables = fit_sequential(model, PATTERN, batches, tmp_path, TaylorSettings(k=2, post_norm=True))
    assert list(tables) == ["layers.0:intermediate+output.dense", "layers.1:intermediate+output.dense"]
    assert torch.equal(model(**batches[0]), exact)
    # Layer 1's centres come from inputs that the replaced layer 0 made, not from the exact ones.
    alone = fit(
        find_blocks(model, PATTERN)[1],
        collect(model, PATTERN, batches, tmp_path / "alone"),
        TaylorSettings(k=2, post_norm=True),
    )
    assert not torch.equal(tables["layers.1:intermediate+output.dense"].centres, alone.centres)
    # A second run only reads what is there.
    again = fit_sequential(model, PATTERN, batches, tmp_path, TaylorSettings(k=2, post_norm=True))
    assert all(torch.equal(again[name].slopes, tables[name].slopes) for name in tables)
    with pytest.raises(LutcError, match="other settings"):
        fit_sequential(model, PATTERN, batches, tmp_path, TaylorSettings(k=3, post_norm=True))
    with pytest.raises(LutcError, match="run only once"):
        fit_sequential(model, PATTERN, iter(batches), tmp_path)


def test_errors(block, x):
    for kwargs, words in [
        ({"k": 0}, "k >= 1"),
        ({"fit": "magic"}, "'ridge'"),
        ({"format": "fp8"}, "fp32, fp16"),
        ({"fallback": 1.0}, r"\[0, 1\)"),
    ]:
        with pytest.raises(LutcError, match=words):
            TaylorSettings(**kwargs)
    with pytest.raises(LutcError, match="k = 5000 centres need at least 5000 samples"):
        fit(block, x, TaylorSettings(k=5000))
    with pytest.raises(LutcError, match="NaN or infinite"):
        fit(block, x.index_fill(0, torch.tensor([7]), torch.inf), TaylorSettings(k=2))
    with pytest.raises(LutcError, match=r"sums for 4 centres need .* fewer centres"):
        fit(block, x, TaylorSettings(k=4, memory=5000))
    with pytest.raises(LutcError, match="does not run on one tensor of shape"):
        fit(block, x[:, :5], TaylorSettings(k=2))
    with pytest.raises(LutcError, match="float64 weights.*float32 on the CPU"):
        fit(nn.Linear(6, 6).double(), x, TaylorSettings(k=2))
    with pytest.raises(LutcError, match="cannot calibrate a fallback"):
        fit(block, x[:300], TaylorSettings(k=2, fallback=0.1))
    with pytest.raises(LutcError, match="keeps a state"):
        fit(Block("rnn", ("",), (nn.Sequential(nn.LSTM(6, 6)),)), x, TaylorSettings(k=2))
    with pytest.warns(UserWarning, match="train mode with dropout"):
        dropped = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)).train()
        fit(dropped, x, TaylorSettings(k=2))
    assert dropped.training


@pytest.mark.parametrize("old, new", [("Settings", "TaylorSettings"), ("Inputs", "BlockInputs")])
def test_the_old_names_still_serve_and_name_the_new_ones(old, new):
    with pytest.warns(DeprecationWarning, match=f"lutc.taylor.{new} now"):
        assert getattr(taylor, old) is getattr(taylor, new)
