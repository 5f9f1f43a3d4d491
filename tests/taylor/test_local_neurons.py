"""Neurons of each centre's own and Jacobians of a rank, against the definition, numpy and a search of all choices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor import distil, evaluate, find_blocks
from lutc.taylor.blocks import Block
from lutc.taylor.cluster import nearest
from lutc.taylor.distillation import _common
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.low_rank import reduced
from lutc.taylor.module import TaylorMLP
from lutc.taylor.ridge import RidgeSums
from lutc.taylor.table import TaylorTable
from tests.helpers.taylor_model import PATTERN
from tests.helpers.taylor_tables import drawn


@pytest.fixture
def x():
    return 2 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))


def by_hand(table: TaylorTable, x: torch.Tensor) -> np.ndarray:
    """The definition, row by row in float64."""
    centres, values = table.centres.double().numpy(), table.values.double().numpy()
    slopes, weights = table.real_slopes().double().numpy(), table.weights.double().numpy()
    offsets, projections = table.offsets.double().numpy(), table.projections.double().numpy()
    result = []
    for row in x.double().numpy():
        a = int(((row - centres) ** 2).sum(1).argmin())
        own = table.chosen[a].numpy()
        kept = nn.functional.gelu(torch.from_numpy(weights[own] @ row + offsets[own])).numpy()
        result.append(values[a] + slopes[a] @ np.concatenate([projections[a] @ (row - centres[a]), kept]))
    return np.stack(result)


@pytest.mark.parametrize("format", ["fp32", "fp16", "bf16", "int8"])
def test_table_and_module_are_the_definition(format, tmp_path):
    table = drawn(format)
    table.save(tmp_path / "t")
    module = TaylorMLP.load(tmp_path / "t").requires_grad_(False)
    x = torch.randn(200, 19, generator=torch.Generator().manual_seed(1))
    wanted = torch.from_numpy(by_hand(table, x)).float()
    torch.testing.assert_close(table(x), wanted, rtol=1e-4, atol=1e-4)
    for rows in (1, 3, 64, 65, 200):
        torch.testing.assert_close(module(x[:rows]), wanted[:rows], rtol=1e-4, atol=1e-4)
    x[5, 3] = torch.nan
    assert torch.isnan(module(x)[5]).all() and not torch.isnan(module(x)[6]).any()
    assert torch.isnan(module(x[:8])[5]).all() and not torch.isnan(module(x[:8])[6]).any()
    again = module.table()
    for name in ("slopes", "chosen", "projections", "weights"):
        assert torch.equal(getattr(again, name), getattr(table, name))
    wide = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2}[format]
    narrow = 1 if format == "int8" else wide
    others = 4 * (3 * 6 + 9) if format == "int8" else 0
    floats = 3 * 19 + 3 * 6 + 11 * 19 + 11 + 3 * 4 * 19
    assert table.storage_bytes == wide * floats + narrow * 3 * 6 * 9 + 4 * 3 * 5 + others
    assert table.multiply_adds() == 3 * 19 + (4 + 5) * 19 + 6 * 9


@pytest.mark.parametrize("without", ["projections", "chosen", "neurons"])
@pytest.mark.parametrize("function", ["gelu", "silu"])
def test_either_alone(without, function):
    """Small batches (in one kernel where the function is there) and large ones of tables with one of the two."""
    table = drawn("fp16", function)
    slopes, nothing = table.slopes, {}
    if without == "projections":
        slopes, nothing = torch.cat([slopes[..., :4]] * 5, 2)[..., :19], {"projections": None}
        slopes = torch.cat([slopes, table.slopes[..., 4:]], 2)
    elif without == "chosen":
        nothing = {"chosen": None, "weights": table.weights[:5], "offsets": table.offsets[:5]}
    else:
        nothing = dict.fromkeys(("chosen", "weights", "offsets", "activation"))
        slopes = slopes[..., :4]
    table = replace(table, slopes=slopes.contiguous(), **nothing)
    module = TaylorMLP(table).requires_grad_(False)
    x = torch.randn(100, 19, generator=torch.Generator().manual_seed(1))
    for rows in (1, 2, 64, 100):
        torch.testing.assert_close(module(x[:rows]), table(x[:rows]), rtol=1e-3, atol=1e-3)


def test_stored_moves_values_with_rounded_centres():
    table = drawn()
    x = table.centres.repeat(20, 1) + 0.3 * torch.randn(60, 19, generator=torch.Generator().manual_seed(2))
    wanted = table(x)
    assert (table.stored("fp16")(x) - wanted).abs().max() < 2e-3 * wanted.abs().max()


@pytest.fixture
def two_sides(x):
    """A block of 12 neurons of which 1 and 9 have their kink where x_0 < 0, 4 and 6 where x_0 > 0, the others none;
    inputs on both sides; a centre on each.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).requires_grad_(False).eval()
    module[0].bias[:] = 80.0
    module[0].weight[:, 0] = 0
    for neuron, side in ((1, -1), (4, 1), (6, 1), (9, -1)):
        module[0].bias[neuron] = -15.0
        module[0].weight[neuron, 0] = 5.0 * side
    x[:, 0] = torch.where(x[:, 0] > 0, x[:, 0] + 2, x[:, 0] - 2) * 0.8
    centres = torch.zeros(2, 6)
    centres[0, 0], centres[1, 0] = -3.0, 3.0
    return Block("mlp", ("",), (module,)), x, centres


def test_each_centre_keeps_the_neurons_that_bend_about_it(two_sides):
    block, x, centres = two_sides
    table = fit(block, x, TaylorSettings(k=2, neurons=2, local=True), centres=centres)
    module = block.modules[0]
    held = [{tuple(table.weights[row].tolist()) for row in own} for own in table.chosen]
    expected = [{tuple(module[0].weight[j].tolist()) for j in own} for own in ((1, 9), (4, 6))]
    assert held == expected and len(table.weights) == 4
    torch.testing.assert_close(table(x), module(x), rtol=1e-3, atol=1e-3)
    low = fit(block, x, TaylorSettings(k=2, neurons=2, local=True, rank=4), centres=centres)
    torch.testing.assert_close(low(x), table(x), rtol=1e-3, atol=1e-3)  # there are but 4 outputs
    shared = fit(block, x, TaylorSettings(k=2, neurons=2), centres=centres)
    assert shared.info["certificate"]["relative_error"] > 1e-3 > table.info["certificate"]["relative_error"]


def test_jacobians_of_a_rank_are_the_nearest(block, x):
    """About each centre the map of rank 2 is at most as far, on the samples, as numpy's reduced-rank regression."""
    full = fit(block, x, TaylorSettings(k=2))
    table = fit(block, x, TaylorSettings(k=2, rank=2))
    train = x[torch.arange(len(x)) % 10 != 9]
    owner = nearest(train, full.centres).numpy()
    difference = (table(train) - full(train)).double().numpy()
    for index in range(2):
        rows = train[owner == index].double().numpy()
        y = (rows - rows.mean(0)) @ full.slopes[index].double().numpy().T
        least = (np.linalg.svd(y)[1][2:] ** 2).sum()
        assert least <= (difference[owner == index] ** 2).sum() * (1 + 1e-6) + 1e-9
        assert (difference[owner == index] ** 2).sum() <= least * (1 + 1e-3)
    assert table.multiply_adds() == 2 * 6 + 2 * 6 + 2 * 5


@pytest.mark.parametrize("felt", [False, True])
def test_neurons_take_up_what_a_rank_leaves(block, x, felt):
    """The best map of rank 2 beside free neurons and constant, by numpy: project these out, cut the singular values."""
    full = fit(block, x, TaylorSettings(k=2, neurons=5, local=True))
    sums = RidgeSums(2, 6 + 5 + 1, 5, 1 << 20)
    owner = nearest(x, full.centres)
    sums.add(x, full(x), owner, torch.ones(len(x)), full)
    factor = torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double()
    root = torch.linalg.cholesky(factor @ factor.T).T if felt else torch.eye(5).double()
    table = reduced(full, sums, 2, 1e-9, root)
    for index in range(2):
        rows = x[owner == index]
        z = full.features(rows, index).double().numpy()
        rest = np.concatenate([z[:, 6:], np.ones((len(z), 1))], 1)
        own = z[:, :6] - rest @ np.linalg.lstsq(rest, z[:, :6], rcond=None)[0]
        y = own @ full.slopes[index, :, :6].double().numpy().T @ root.numpy().T
        least = (np.linalg.svd(y)[1][2:] ** 2).sum()
        found = ((table(rows) - full(rows)).double() @ root.T).square().sum().item()
        assert least * (1 - 1e-3) <= found <= least * (1 + 1e-3)


def test_a_metric_chooses_the_neurons_that_are_felt(x):
    """Neurons 0 and 1 bend output 0 most, 2 and 3 output 1; the metric hardly counts output 0."""
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False).eval()
    module[0].weight[:], module[0].bias[:] = torch.eye(8, 6), torch.tensor([0.0] * 4 + [80.0] * 4)
    module[2].weight[:] = torch.tensor([[9.0, 9, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1]])
    settings = TaylorSettings(k=1, neurons=2, local=True)
    plain = fit(Block("mlp", ("",), (module,)), x, settings)
    felt = fit(Block("mlp", ("",), (module,)), x, settings, metric=torch.diag(torch.tensor([1e-4, 1.0])))
    assert plain.weights.argmax(1).tolist() == [0, 1] and felt.weights.argmax(1).tolist() == [2, 3]


def test_what_is_common_to_all_centres_is_summed_over_them():
    module = TaylorMLP(drawn())
    module(torch.randn(50, 19, generator=torch.Generator().manual_seed(4))).square().sum().backward()
    bias, columns = _common(module)
    bias.gather(), columns.gather()
    wanted = np.zeros((11, 6))
    for centre, own in enumerate(module.chosen.tolist()):
        for place, neuron in enumerate(own):
            wanted[neuron] += module.slopes.grad[centre, :, 4 + place].double().numpy()
    np.testing.assert_allclose(columns.step.grad, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias.step.grad, module.bias.grad.sum(0))
    before = module.slopes.detach().clone()
    columns.step.data[:] = torch.arange(11.0)[:, None]
    columns.apply()
    change = (module.slopes - before).detach()
    assert not change[..., :4].any() and not columns.step.any()
    torch.testing.assert_close(change[:, 0, 4:], module.chosen.float())


def test_a_centre_without_spread_fits_into_fp16(block, x):
    """Samples that are all the same leave no direction to prefer; those of another centre are as good as without."""
    x[::2] = x[0]
    centres = torch.stack([x[0], x[1::2].mean(0)])
    table = fit(block, x, TaylorSettings(k=2, rank=3), centres=centres)
    stored = table.stored("fp16")
    torch.testing.assert_close(stored(x[:200]), table(x[:200]), rtol=1e-2, atol=1e-2)
    assert float(table.projections.norm(dim=2).max()) < 1.001


def test_gradients_are_the_definitions():
    table = drawn()
    module = TaylorMLP(table)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 19, generator=generator, requires_grad=True)
    weight = torch.randn(30, 6, generator=generator)
    (module(x) * weight).sum().backward()
    owner = nearest(x.detach(), table.centres)
    names = ("slopes", "projections", "weights", "offsets")
    tensors = {name: getattr(table, name).clone().requires_grad_() for name in names}
    values = torch.einsum("kor,krd,kd->ko", table.slopes[..., :4], table.projections, table.centres)
    bias = (table.values - values).requires_grad_()
    rows = x.detach().clone().requires_grad_()
    own = table.chosen.long()[owner]
    kept = nn.functional.gelu(torch.einsum("npd,nd->np", tensors["weights"][own], rows) + tensors["offsets"][own])
    z = torch.cat([torch.einsum("nrd,nd->nr", tensors["projections"][owner], rows), kept], 1)
    y = torch.einsum("nop,np->no", tensors["slopes"][owner], z) + bias[owner]
    (y * weight).sum().backward()
    for name in names:
        torch.testing.assert_close(getattr(module, name).grad, tensors[name].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, rows.grad, rtol=1e-4, atol=1e-4)
    arguments = (rows.detach(), owner, module.weights, module.offsets, module.chosen)
    torch.library.opcheck(torch.ops.lutc.chosen_linear.default, arguments, test_utils="test_faketensor")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_distillation_brings_the_model_closer(model, batches, tmp_path, dtype):
    from lutc.taylor import collect

    inputs = collect(model, PATTERN, batches[:8], tmp_path)
    settings = TaylorSettings(k=2, neurons=4, local=True, rank=6)
    tables = {block.name: fit(block, inputs, settings) for block in find_blocks(model, PATTERN)}
    mlps = {name: TaylorMLP(table) for name, table in tables.items()}
    before = evaluate(model, mlps, batches[8:]).cosine
    losses = distil(model, mlps, batches[:8], steps=60, rate=2e-3, dtype=dtype)
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert 1 - evaluate(model, mlps, batches[8:]).cosine < 0.9 * (1 - before)
    assert all(not torch.equal(mlps[name].projections, tables[name].projections) for name in tables)


@pytest.mark.parametrize("format", ["fp32", "int8"])
@pytest.mark.parametrize("function", ["gelu", "silu", "relu"])
def test_onnx_is_the_table(format, function, tmp_path):
    pytest.importorskip("onnxruntime")
    from lutc.taylor import export_onnx

    table = drawn(format, function)
    path, difference = export_onnx(table, tmp_path / "t.onnx")
    assert path.exists() and difference < 1e-5


def test_bad_requests_are_one_clear_error(block, x):
    table = drawn()
    parts = {name: getattr(table, name) for name in ("centres", "values", "slopes", "counts", "weights", "offsets")}
    parts |= {"activation": "gelu", "projections": table.projections, "chosen": table.chosen}
    cases = [
        (lambda: TaylorSettings(local=True), "how many each centre has"),
        (lambda: TaylorSettings(rank=-1), "rank = -1"),
        (lambda: TaylorSettings(rank=2, order=2), "needs order 1"),
        (lambda: TaylorSettings(rank=2, fit="taylor"), "the regression"),
        (lambda: fit(block, x, TaylorSettings(rank=6)), "over the width"),
        (lambda: fit(block, x, TaylorSettings(k=2), metric=torch.eye(4)), "finite and .5, 5."),
        (lambda: fit(block, x, TaylorSettings(k=2), metric=torch.zeros(5, 5)), "positive definite"),
        (lambda: fit(block, x, TaylorSettings(neurons=25, local=True)), "has 24; keep fewer"),
        (lambda: TaylorTable(**{**parts, "chosen": table.chosen.long()}), "must be int32"),
        (lambda: TaylorTable(**{**parts, "chosen": table.chosen + 7}), "rows of the 11 weights"),
        (lambda: TaylorTable(**{**parts, "chosen": table.chosen[:2]}), "chosen of shape"),
        (lambda: TaylorTable(**{**parts, "projections": table.projections[:2]}), "projections of shape"),
        (lambda: TaylorTable(**{**parts, "projections": table.projections[:, 1:]}), "do not fit"),
        (lambda: TaylorTable(**{**parts, "projections": table.projections.half()}), "wants"),
        (lambda: TaylorTable(**{**parts, "projections": table.projections / 0}), "NaN or infinity"),
    ]
    for call, words in cases:
        with pytest.raises(LutcError, match=words):
            call()
