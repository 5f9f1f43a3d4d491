from dataclasses import replace as changed

import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor import cpu
from lutc.taylor.module import TaylorMLP
from lutc.taylor.table import FORMATS, TaylorTable


def make_table(k=7, d=10, o=6, order=1, format="fp32", radii=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    table = TaylorTable(
        torch.randn(k, d, generator=g),
        torch.randn(k, o, generator=g),
        torch.randn(k, o, d * order, generator=g) / d,
        torch.ones(k, dtype=torch.int64),
        radii=torch.full((k,), 3.0) if radii else None,
    )
    return table.stored(format)


def oracle(table: TaylorTable, x: torch.Tensor) -> torch.Tensor:
    """Row by row in float64, from the definition."""
    centres, slopes = table.centres.double(), table.slopes.double()
    if table.scales is not None:
        slopes = slopes * table.scales.double()[..., None] * table.columns.double()
    rows = []
    for row in x.double():
        a = (centres - row).square().sum(1).argmin()
        z = row - centres[a]
        rows.append(table.values[a].double() + slopes[a] @ (z if table.order == 1 else torch.cat([z, z * z / 2])))
    return torch.stack(rows)


@pytest.mark.parametrize("n", [1, 3, 64, 65, 300])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_agrees_with_the_definition(n, order, format):
    table = make_table(order=order, format=format)
    x = torch.randn(n, 10, generator=torch.Generator().manual_seed(n))
    with torch.no_grad():
        y = TaylorMLP(table)(x)
    torch.testing.assert_close(y.double(), oracle(table, x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(table(x).double(), oracle(table, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [5, 200])
@pytest.mark.parametrize("k", [1, 2, 100])
def test_one_centre_many_centres_and_empty_ones(n, k):
    table = make_table(k=k, d=13, o=3)
    x = torch.randn(n, 13) / 10 + table.centres[0]  # most centres get no row
    torch.testing.assert_close(TaylorMLP(table)(x).detach().double(), oracle(table, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", FORMATS)
def test_many_rows_a_centre_on_one_and_on_several_threads(format, threads):
    """One thread: four rows at a time in numba; two: a matrix product of torch's per centre. 9 outputs leave one over
    after fours.
    """
    table = make_table(k=3, o=9, format=format)
    x = torch.randn(3 * 33, 10, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert cpu.serves(len(x), 3) == (threads == 1)
        y = TaylorMLP(table)(x).detach()
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y.double(), oracle(table, x), rtol=1e-5, atol=1e-5)


def test_a_table_of_several_huge_pages():
    """Asking for huge pages changes no number, and rows of the last centre fetch ahead past the table's end."""
    table = make_table(k=40, d=200, o=201)
    mlp = TaylorMLP(table)
    assert table.slopes.nbytes > 6 << 20
    x = table.centres[-5:] + 0.1
    with torch.no_grad():
        torch.testing.assert_close(mlp(x).double(), oracle(table, x), rtol=1e-4, atol=1e-4)
    assert torch.equal(mlp.slopes, table.slopes)


def test_shapes_strides_and_no_rows():
    mlp = TaylorMLP(make_table())
    x = torch.randn(4, 10, 3).transpose(1, 2)
    y = mlp(x)
    assert y.shape == (4, 3, 6)
    torch.testing.assert_close(y.reshape(12, 6), mlp(x.reshape(12, 10)))
    assert mlp(torch.randn(0, 10)).shape == (0, 6)
    assert mlp(torch.randn(10)).shape == (6,)


@pytest.mark.parametrize("n", [4, 100])
def test_nan_stays_nan_in_its_row_alone(n):
    mlp = TaylorMLP(make_table())
    x = torch.randn(n, 10)
    clean = mlp(x)
    x[2, 5] = torch.nan
    y = mlp(x)
    assert y[2].isnan().all()
    keep = torch.arange(n) != 2
    torch.testing.assert_close(y[keep], clean[keep])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_and_casts_do_not_round_the_table(dtype):
    table = make_table()
    mlp = TaylorMLP(table).to(dtype)
    assert mlp.slopes.dtype == mlp.centres.dtype == torch.float32
    x = torch.randn(9, 10).to(dtype)
    y = mlp(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, oracle(table, x.float()).to(dtype))


@pytest.mark.parametrize("n", [5, 90])
@pytest.mark.parametrize("order", [1, 2])
def test_gradients_against_finite_differences(n, order):
    """In float32 with a linear loss: y is a polynomial in x and linear in the parameters, so central differences are
    exact but for rounding.
    """
    torch.manual_seed(0)
    mlp, x, g = TaylorMLP(make_table(order=order)), torch.randn(n, 10, requires_grad=True), torch.randn(n, 6)
    (mlp(x) * g).sum().backward()

    def numeric(tensor, index, step=1e-2):
        """Centred, and summed in float64 over rows."""
        with torch.no_grad():
            old = tensor[index].clone()
            tensor[index] = old + step
            up = (mlp(x).double() * g).sum()
            tensor[index] = old - step
            down = (mlp(x).double() * g).sum()
            tensor[index] = old
        return float((up - down) / (2 * step))

    from lutc.taylor.cluster import nearest

    owner = nearest(x.detach(), mlp.centres)
    used = int(owner[0])
    for index in [(used, 0, 0), (used, 5, 9), (used, 2, mlp.slopes.shape[2] - 1)]:
        assert float(mlp.slopes.grad[index]) == pytest.approx(numeric(mlp.slopes.data, index), rel=1e-2, abs=2e-3)
    assert float(mlp.bias.grad[used, 3]) == pytest.approx(numeric(mlp.bias.data, (used, 3)), rel=1e-2, abs=2e-3)
    # Away from a boundary between centres; a small step must not change the owner.
    assert float(x.grad[0, 4]) == pytest.approx(numeric(x.data, (0, 4), 1e-3), rel=3e-2, abs=1e-2)


def test_int8_gives_gradients_to_inputs():
    table = make_table(format="int8")
    mlp, x = TaylorMLP(table), torch.randn(80, 10, requires_grad=True)
    assert not mlp.slopes.requires_grad
    mlp(x).sum().backward()
    real = table.slopes.float() * table.scales[..., None] * table.columns
    torch.testing.assert_close(
        x.grad[0], real[(table.centres.float() - x[0]).square().sum(1).argmin()].sum(0), rtol=1e-4, atol=1e-5
    )
    few = x.detach()[:3].requires_grad_()
    mlp(few).sum().backward()
    torch.testing.assert_close(few.grad, x.grad[:3])


def test_fallback_runs_the_exact_module_beyond_the_radius():
    exact = nn.Linear(10, 6)
    table = make_table(radii=True)
    mlp = TaylorMLP(table, exact)
    x = torch.randn(200, 10)
    far = torch.cdist(x.double(), table.centres.double()).min(1).values > 3.0
    assert 0 < far.sum() < 200
    expected = torch.where(far[:, None], exact(x).double(), oracle(table, x))
    torch.testing.assert_close(mlp(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(table.beyond(x), far)
    x.requires_grad_()
    mlp(x)[far].sum().backward()
    torch.testing.assert_close(x.grad[far], exact.weight.sum(0).expand(int(far.sum()), 10))


@pytest.mark.parametrize("radii", [False, True])
def test_compiles_without_graph_breaks(radii):
    mlp = TaylorMLP(make_table(radii=radii), nn.Linear(10, 6) if radii else None)
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    for n in (3, 70):
        x = torch.randn(n, 10, requires_grad=True)
        y = mlp(x)
        torch.testing.assert_close(compiled(x), y)
        wanted = torch.autograd.grad(y.sum(), x)[0]
        torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x)[0], wanted)


def test_operators_pass_torchs_own_checks():
    from lutc.taylor import ops

    table = make_table()
    x, owner = torch.randn(70, 10, requires_grad=True), torch.randint(7, (70,))
    torch.library.opcheck(ops.route, (x.detach(), table.centres, table.centres.square().sum(1) / 2))
    torch.library.opcheck(
        ops.grouped_linear,
        (x, owner, table.slopes.clone().requires_grad_(), None, table.values.clone().requires_grad_()),
    )


def test_fine_tuned_module_gives_its_table_back(tmp_path):
    mlp = TaylorMLP(changed(make_table(), info={"block": "b", "certificate": {"relative_error": 0.1}}))
    x = torch.randn(50, 10)
    optimiser = torch.optim.SGD(mlp.parameters(), lr=0.1)
    before = float(mlp(x).square().mean().detach())
    for _ in range(20):
        optimiser.zero_grad()
        loss = mlp(x).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5 * before
    mlp.table().save(tmp_path / "tuned")
    again = TaylorMLP.load(tmp_path / "tuned")
    torch.testing.assert_close(again(x), mlp(x), rtol=1e-5, atol=1e-5)
    assert again.info["certificate"] is None


def test_state_dict_round_trip():
    first, second = TaylorMLP(make_table(seed=0)), TaylorMLP(make_table(seed=1))
    second.load_state_dict(first.state_dict())
    x = torch.randn(8, 10)
    torch.testing.assert_close(first(x), second(x))


def test_errors():
    mlp = TaylorMLP(make_table())
    with pytest.raises(LutcError, match="input is 9 wide, the table 10"):
        mlp(torch.randn(2, 9))
    with pytest.raises(LutcError, match="float64 are not supported"):
        mlp(torch.randn(2, 10).double())
    with pytest.raises(LutcError, match="input is on meta, the table on cpu"):
        mlp(torch.randn(2, 10, device="meta"))
    with pytest.raises(LutcError, match="give the exact MLP"):
        TaylorMLP(make_table(radii=True))
    with pytest.raises(LutcError, match="no fallback"):
        TaylorMLP(make_table(), nn.Linear(10, 6))


@pytest.mark.gpu
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("n", [1, 77, 1000])
def test_cuda_agrees_with_the_definition(format, n):
    table = make_table(k=9, d=70, o=45, format=format)
    x = torch.randn(n, 70)
    y = TaylorMLP(table).cuda()(x.cuda())
    torch.testing.assert_close(y.cpu().double(), oracle(table, x), rtol=1e-4, atol=1e-4)
