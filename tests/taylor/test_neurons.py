"""Kept neurons, against the MLP's own hidden layer and numpy's least squares."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor import distil, evaluate, find_blocks
from lutc.taylor.blocks import Block
from lutc.taylor.cluster import nearest
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.module import TaylorMLP
from lutc.taylor.neurons import HiddenLayer
from lutc.taylor.table import TaylorTable
from tests.helpers.taylor_model import PATTERN


@pytest.fixture
def x():
    return 2 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def table(block, x):
    return fit(block, x, TaylorSettings(k=3, neurons=7))


def test_all_neurons_kept_reproduce_the_mlp(block, x):
    table = fit(block, x, TaylorSettings(k=3, neurons=24))
    torch.testing.assert_close(table(x), block(x), rtol=1e-4, atol=1e-5)


def test_the_neurons_that_no_linear_map_explains_are_kept(x):
    """Two neurons of 12 are far from linear on this data (a kink at 0); the others are shifted to where relu is the
    identity or 0.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).requires_grad_(False).eval()
    module[0].bias[:] = 50.0
    module[0].bias[::2] = -50.0
    module[0].bias[[3, 8]] = 0.0
    layer = HiddenLayer(Block("mlp", ("",), (module,)), 2)
    assert layer.lines(x, torch.ones(len(x))).shares.topk(2).indices.sort().values.tolist() == [3, 8]
    assert layer.bent(x, torch.ones(len(x)), 2).tolist() == [3, 8]
    assert layer.function == "relu"


def test_lines_are_weighted_least_squares(block, x):
    layer = HiddenLayer(block, 1)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    found = layer.lines(x, weight)
    first, act, last = block.modules[0][0], block.modules[0][1], block.modules[0][2]
    with torch.no_grad():
        a, h = first(x).double().numpy(), act(first(x)).double().numpy()
    root = np.sqrt(weight.double().numpy())
    for j in (0, 7, 23):
        f = np.stack([a[:, j] * root, root], 1)
        (gain, shift), left, *_ = np.linalg.lstsq(f, h[:, j] * root, rcond=None)
        assert found.gains[j] == pytest.approx(gain, rel=1e-4, abs=1e-5)
        assert found.mean_h[j] - found.gains[j] * found.mean_a[j] == pytest.approx(shift, rel=1e-4, abs=1e-5)
        column = float(last.weight[:, j].double().square().sum())
        assert found.shares[j] == pytest.approx(left[0] / (root**2).sum() * column, rel=1e-3)


def test_each_neuron_chosen_takes_off_the_most(block, x):
    """Step by step against numpy's least squares of the output on the inputs and the neurons chosen so far."""
    layer = HiddenLayer(block, 4)
    with torch.no_grad():
        h, y = block.modules[0][1](block.modules[0][0](x)).double().numpy(), block(x).double().numpy()
    f = np.concatenate([x.double().numpy(), np.ones((len(x), 1))], 1)
    ones, errors = torch.ones(len(x)), {}

    def error(own):
        g = np.concatenate([f, h[:, own]], 1)
        return ((g @ np.linalg.lstsq(g, y, rcond=None)[0] - y) ** 2).sum()

    chosen = []
    for n in (1, 2, 3, 4):
        errors = {j: error([*chosen, j]) for j in range(24) if j not in chosen}
        added = set(layer.bent(x, ones, n).tolist()) - set(chosen)
        assert len(added) == 1
        chosen += added
        assert errors[chosen[-1]] <= 1.02 * min(errors.values())


def test_fit_is_least_squares_on_inputs_and_neurons(block, x, table):
    """Where nothing is held back by the prior, each centre's map is numpy's least squares on (x, kept neurons, 1)."""
    train = x[torch.arange(len(x)) % 10 != 9]
    with torch.no_grad():
        y = block(train).double().numpy()
        h = block.modules[0][1](train @ table.weights.T + table.offsets)
    f = torch.cat([train, h, torch.ones(len(train), 1)], 1).double().numpy()
    owner = nearest(train, table.centres).numpy()
    for index in range(table.k):
        rows = owner == index
        best = ((f[rows] @ np.linalg.lstsq(f[rows], y[rows], rcond=None)[0] - y[rows]) ** 2).sum()
        found = ((table(train[rows]).double().numpy() - y[rows]) ** 2).sum()
        assert best <= found * (1 + 1e-4) and found < 1.05 * best


@pytest.mark.parametrize("format", ["fp32", "fp16", "int8"])
def test_stored_loaded_and_run(table, x, tmp_path, format):
    stored = table.stored(format)
    stored.save(tmp_path / "t")
    module = TaylorMLP.load(tmp_path / "t")
    for rows in (x[:1], x[:33], x):
        torch.testing.assert_close(module(rows), stored(rows), rtol=1e-5, atol=1e-5)
    again = module.table()
    assert (
        torch.equal(again.weights, stored.weights)
        and torch.equal(again.slopes, stored.slopes)
        and again.activation == "gelu"
    )
    limit = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1}[format]
    assert (stored(x) - table(x)).abs().max() < limit
    # k centres of 6, k values and rows of 5, 7 neurons of 6 inputs and an offset; 13 slopes for each of the 5 outputs.
    size = {"fp32": 4, "fp16": 2, "int8": 2}[format]
    expected = (
        size * (3 * 6 + 3 * 5 + 7 * 6 + 7)
        + (1 if format == "int8" else size) * 3 * 5 * 13
        + (4 * (3 * 5 + 13) if format == "int8" else 0)
    )
    assert stored.storage_bytes == expected
    assert stored.multiply_adds() == 3 * 6 + 7 * 6 + 13 * 5


def test_gradients_reach_inputs_and_neurons(table, x):
    module = TaylorMLP(table).double()
    rows = x[:40].clone().requires_grad_()
    module(rows).square().sum().backward()
    step = torch.zeros_like(rows)
    step[:, 2] = 1e-3
    with torch.no_grad():
        inside = (nearest(rows + step, table.centres) == nearest(rows - step, table.centres))[:, None]
        change = ((module(rows + step).square() - module(rows - step).square()) * inside).sum(1) / 2e-3
    expected = torch.where(inside[:, 0], rows.grad[:, 2], 0)
    torch.testing.assert_close(change, expected, rtol=2e-2, atol=2e-2)
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_distillation_brings_the_model_closer(model, batches, tmp_path, dtype):
    from lutc.taylor import collect

    inputs = collect(model, PATTERN, batches[:8], tmp_path)
    tables = {block.name: fit(block, inputs, TaylorSettings(k=2, neurons=4)) for block in find_blocks(model, PATTERN)}
    mlps = {name: TaylorMLP(table) for name, table in tables.items()}
    before = evaluate(model, mlps, batches[8:]).cosine
    losses = distil(model, mlps, batches[:8], steps=60, rate=2e-3, dtype=dtype)
    after = evaluate(model, mlps, batches[8:]).cosine
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert 1 - after < 0.9 * (1 - before)
    assert all(not torch.equal(mlps[name].weights, tables[name].weights) for name in tables)


def test_bad_requests_are_one_clear_error(block, x, table, tmp_path):
    deep = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5)).eval()
    cases = [
        (lambda: fit(block, x, TaylorSettings(k=2, neurons=25)), "has 24; keep fewer"),
        (lambda: fit(deep, x, TaylorSettings(k=2, neurons=2)), "not two linear layers"),
        (lambda: TaylorSettings(neurons=-1), "neurons = -1"),
        (lambda: TaylorSettings(neurons=2, order=2), "need order 1"),
        (
            lambda: TaylorTable(table.centres, table.values, table.slopes, table.counts, weights=table.weights),
            "belong together",
        ),
        (lambda: TaylorTable(table.centres, table.values, table.slopes, table.counts), "do not fit"),
        (lambda: distil(nn.Identity(), {}, [], dtype="fp8"), "use fp32 or bf16"),
    ]
    for call, words in cases:
        with pytest.raises(LutcError, match=words):
            call()
    table.save(tmp_path / "t")
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "activation": "gleu"}))
    with pytest.raises(LutcError, match="gleu"):
        TaylorMLP.load(tmp_path / "t")


@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_functions_in_the_kernel_are_torchs(function):
    from lutc.functions.in_torch import value
    from lutc.taylor.cpu_kernels import ACTIVATIONS

    edges = torch.tensor([0.0, -0.0, 5.65685, -5.65685, 5.6569, -5.6569, 1e-30, 1e4, -1e4, torch.nan])
    x = torch.cat([torch.linspace(-10, 10, 20001), edges])
    given = x.clone().numpy()
    ACTIVATIONS[function](given)
    torch.testing.assert_close(torch.from_numpy(given), value(function, x), rtol=3e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("format", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("function", ["relu", "gelu", "silu"])
def test_small_batches_are_the_definition(format, function):
    """In one kernel where the function is there, else in two calls; rows of one and of several centres."""
    generator = torch.Generator().manual_seed(0)
    k, d, o, n = 3, 19, 6, 5
    tensors = [torch.randn(*shape, generator=generator) for shape in ((k, d), (k, o), (k, o, d + n), (n, d), (n,))]
    table = TaylorTable(
        *tensors[:3],
        torch.ones(k, dtype=torch.int64),
        weights=tensors[3],
        offsets=tensors[4],
        activation=function,
    ).stored(format)
    module = TaylorMLP(table).requires_grad_(False)
    x = torch.randn(64, d, generator=generator)
    x[5, 3] = torch.nan
    for rows in (1, 2, 3, 4, 5, 6, 7, 64):
        given, wanted = module(x[:rows]), table(x[:rows])
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
