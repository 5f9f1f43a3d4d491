"""NN-LUT: what is read off is the network, the table keeps its tails on every code, and the same request gives the same
bytes.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lutc
from lutc import certify, formats, functions
from lutc.costs.rules import Rules
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.samples.samples import Samples, format_samples, grid_samples
from lutc.search.gradient import GradientSettings, Network, _table, _tail_ends, gradient, train
from lutc.table.table_set import loads
from tests.helpers.oracles import grid

FP32 = formats.get("fp32")
QUICK = GradientSettings(restarts=2, steps=60)


def network(rng, hidden: int) -> Network:
    return Network(
        rng.normal(size=hidden), rng.normal(size=hidden), rng.normal(size=hidden), rng.normal(), rng.normal()
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_the_table_read_off_is_the_network(seed, hidden):
    rng = np.random.default_rng(seed)
    net = network(rng, hidden)
    lines = net.read_off()
    x = np.concatenate([rng.normal(size=200) * 3, lines.breakpoints, rng.uniform(-1e4, 1e4, 50)])
    size = (
        np.abs(net.outputs) @ (np.abs(np.multiply.outer(net.weights, x)) + np.abs(net.biases)[:, None])
        + np.abs(net.slope * x)
        + abs(net.offset)
    )
    assert (np.abs(lines(x) - net(x)) <= 1e-13 * size).all()
    assert lines.entries == hidden + 1  # random breakpoints do not coincide


def test_neurons_that_share_a_breakpoint_or_have_no_weight():
    net = Network(
        np.array([1.0, -2.0, 0.0, 0.0, 3.0]),
        np.array([-1.0, 2.0, 0.5, -0.5, 0.0]),
        np.array([1.0, 2.0, 3.0, 4.0, -1.0]),
        0.25,
        0.125,
    )
    lines = net.read_off()
    assert lines.breakpoints.tolist() == [0.0, 1.0]
    x = np.linspace(-3, 3, 61)
    np.testing.assert_allclose(lines(x), net(x), rtol=0, atol=1e-14)


def test_a_network_without_bends_is_a_line():
    lines = Network(np.zeros(2), np.ones(2), np.array([1.0, 2.0]), 0.5, 0.25).read_off()
    assert lines.entries == 1 and lines(2.0) == 0.5 * 2 + 0.25 + 3


def test_training_gives_networks_in_x_and_y():
    """Scaling is undone: the networks are near the function itself, over a range that is not centred."""
    samples = grid_samples(functions.get("softplus"), 1.0, 6.0, 500)
    for net in train(samples, 7, None, Line(1.0, 0.0), "squared", 0, GradientSettings(restarts=3, steps=300)):
        assert np.abs(net(samples.x) - samples.y).max() < 0.02
        lines = net.read_off()
        assert abs(lines.slopes[-1] - 1.0) < 0.1  # it is drawn to its tail
        np.testing.assert_allclose(lines(samples.x), net(samples.x), atol=1e-12)


def test_training_lowers_the_loss():
    samples = grid_samples(functions.get("gelu"), -4.0, 4.0, 1000)
    settings = {"init": "random", "restarts": 1}
    error = [
        np.mean(
            (
                train(samples, 9, None, None, "squared", 3, GradientSettings(**settings, steps=steps))[0](samples.x)
                - samples.y
            )
            ** 2
        )
        for steps in (1, 400)
    ]
    assert error[1] < 0.5 * error[0]


@pytest.mark.parametrize("left, right", [(Line(0.0, 0.0), Line(1.0, 0.0)), (None, Line(1.0, 0.0)), (None, None)])
@pytest.mark.parametrize("objective", ["squared", "absolute"])
def test_lines_between_breakpoints_are_the_best_that_the_format_has(left, right, objective):
    """Against all pairs of coefficients: least squares exactly, least absolute error nearly (it is found by
    reweighting).
    """
    fmt = formats.get("q1.3")
    x = np.linspace(-2.0, 1.9, 40)
    samples = Samples(x, np.sin(2 * x) * 0.8, np.linspace(1.0, 2.0, 40))
    cost, cuts, (slopes, intercepts) = _table(samples, np.array([-1.5, -0.2, 0.7, 1.2]), fmt, left, right, objective)
    values, weight, total = grid(fmt), samples.weight / samples.weight.sum(), 0.0
    everything = values[:, None, None] * x + values[None, :, None] - samples.y
    bounds = [0, *np.searchsorted(x, [-1.5, -0.2, 0.7, 1.2], side="right"), x.size]
    for at, tail in ((1, left), (4, right)):
        bounds[at] = cuts[at - (left is not None)] if tail else bounds[at]
    for i, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        tail = {0: left, 4: right}.get(i)
        error = tail.slope * x + tail.intercept - samples.y if tail else everything
        error = np.abs(error)[..., start:stop] ** (2 if objective == "squared" else 1) @ weight[start:stop]
        total += error.min()
    assert (
        cuts.tolist() == bounds[left is not None : 5 if right else 6]
        and len(slopes) == len(intercepts) == len(cuts) - 1
    )
    assert fmt.holds(slopes).all() and fmt.holds(intercepts).all()
    assert cost == pytest.approx(total, rel=1e-12) if objective == "squared" else total - 1e-12 <= cost <= 1.1 * total


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_a_tail_ends_where_it_pays(seed, n, zeros):
    """Against a least-squares line for every place."""
    rng = np.random.default_rng(seed)
    x, y, weight, tail = (
        np.sort(rng.normal(size=n)) * 3 + 5,
        rng.normal(size=n),
        rng.uniform(0.1, 1.0, n),
        Line(rng.normal(), rng.normal()),
    )
    weight[rng.random(n) < 0.3 * zeros] = 0.0

    def cost(place):
        rest = np.sqrt(weight[place:])
        design = np.column_stack([x[place:], np.ones(n - place)]) * rest[:, None]
        fitted = design @ np.linalg.lstsq(design, y[place:] * rest, rcond=None)[0] if place < n else np.zeros(0)
        return (
            np.sum((fitted - y[place:] * rest) ** 2)
            + weight[:place] @ (tail.slope * x[:place] + tail.intercept - y[:place]) ** 2
        )

    assert cost(_tail_ends(x, y, weight, tail)) <= min(map(cost, range(n + 1))) + 1e-9


def test_breakpoints_outside_the_samples_make_empty_segments():
    samples = grid_samples(functions.get("gelu"), -1.0, 1.0, 50)
    breakpoints = np.array([-9.0, -8.0, -8.0, 0.0, 8.0, 8.0, 9.0])
    cost, cuts, (slopes, intercepts) = _table(samples, breakpoints, FP32, Line(0.0, 0.0), Line(1.0, 0.0), "squared")
    assert cuts.tolist() == [0, 0, 0, 25, 50, 50, 50] and np.isfinite([cost, *slopes, *intercepts]).all()


@pytest.mark.parametrize("name", ["gelu", "silu", "exp", "reciprocal", "rsqrt", "sigmoid", "sin"])
def test_a_learned_table_is_finite_and_on_its_tail_on_every_code(name):
    tables = lutc.compile(name, 8, search="gradient", inputs="grid", settings=QUICK)
    assert list(tables) == ["fp32"] and tables.meta["search"]["name"] == "gradient"
    table, fn = tables["fp32"], functions.get(name)
    for dtype in ("fp16", "bf16"):
        x = formats.get(dtype).values()
        with np.errstate(all="ignore"):
            exact, got = fn(x), table(x)
        held = np.isfinite(exact) & (np.abs(exact) < formats.get(dtype).max)
        assert np.isfinite(got[held]).all()
        if fn.reduction is not None:  # then it holds on every binade, or period
            assert table.prologue is not None
            near = held & (np.abs(x) < 1e4)
            assert (np.abs(got[near] - exact[near]) < 0.05 * np.maximum(np.abs(exact[near]), 1.0)).all()
            continue
        for tail, outside in (
            (table.left, x <= table.body.breakpoints[0]),
            (table.right, x > table.body.breakpoints[-1]),
        ):
            np.testing.assert_array_equal(got[outside], tail.slope * x[outside] + tail.intercept)
        assert (table.left, table.right) == (fn.left, fn.right) and np.abs(got - exact)[held].max() < 0.1
    assert certify.check(tables.meta["certificate"], certify.certify(loads(tables.dumps()))) == []


@pytest.mark.parametrize("objective", ["squared", "relative", "absolute"])
def test_the_same_request_gives_the_same_bytes_whatever_torch_is_set_to(objective):
    torch = pytest.importorskip("torch")

    def compiled(seed=1):
        return lutc.compile(
            "silu", 6, search="gradient", inputs="grid", objective=objective, seed=seed, settings=QUICK
        ).dumps()

    first, threads, random = compiled(), torch.get_num_threads(), torch.random.get_rng_state()
    try:
        torch.set_num_threads(3)
        torch.manual_seed(99)
        before = torch.random.get_rng_state()
        with torch.no_grad():
            assert compiled() == first
        assert torch.get_num_threads() == 3 and torch.equal(torch.random.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(random)
    assert compiled(2) != first


def test_the_certificate_is_over_the_range_that_the_file_names():
    tables = lutc.compile("silu", 6, search="gradient", inputs="grid", range=(-8.0, 8.0), settings=QUICK)
    assert tables.meta["certificate"]["fp32"]["fp16"]["range"]["inputs"] == 36866
    assert certify.check(tables.meta["certificate"], certify.certify(loads(tables.dumps()))) == []


@pytest.mark.parametrize("entries", [16, 32])
@pytest.mark.parametrize("name", ["gelu", "silu", "exp", "reciprocal", "rsqrt"])
def test_shipped_tables(name, entries):
    """What the file claims holds, nothing runs away on any code, and behind range reduction the worst relative error is
    small everywhere.
    """
    tables = lutc.load(f"{name}_nnlut_{entries}")
    assert certify.check(tables.meta["certificate"], certify.certify(tables)) == []
    table = tables["fp32"]
    assert table.entries <= entries and tables.name == name and (table.prologue is None) == (name in ("gelu", "silu"))
    for figures in tables.meta["certificate"]["fp32"].values():
        assert figures["undefined"]["agree"] == figures["undefined"]["inputs"]
        worst = figures["domain"]["worst_absolute" if table.prologue is None else "worst_relative"]["error"]
        assert worst < {16: 1e-2, 32: 3e-3}[entries]


def test_codes_and_fixed_point_coefficients():
    tables = lutc.compile("gelu", 8, search="gradient", settings=QUICK, inputs=(lutc.formats.Inputs(8, 2.0**-5),))
    table = tables["5"]
    assert formats.get("q1.6").holds(np.concatenate([table.body.slopes, table.body.intercepts])).all()
    optimum = lutc.compile("gelu", 8, search="exact", inputs=(lutc.formats.Inputs(8, 2.0**-5),)).meta["search"][
        "optimum"
    ]["5"]
    assert optimum <= tables.meta["search"]["cost"]["5"] < 6 * optimum
    assert tables.meta["search"]["lower_bound"]["5"] <= optimum


def test_half_the_error_of_a_published_table(anchors):
    """17 entries for silu over [-8, 8], as NN-LUT stores them, against 16 of ours; theirs goes on outside, ours does
    not.
    """
    theirs, fn = lutc.load(anchors / "nn_lut" / "lut_details_silu_H16_sub.json")["fp32"], functions.get("silu")
    ours = lutc.compile(
        "silu",
        16,
        search="gradient",
        inputs="grid",
        range=(-8.0, 8.0),
        settings=GradientSettings(restarts=1, steps=300),
    )["fp32"]
    x = np.linspace(-8.0, 8.0, 20001)
    ours_error, their_error = (np.mean((table(x) - fn(x)) ** 2) for table in (ours, theirs))
    assert ours.entries <= 16 and theirs.entries == 17 and ours_error < 0.5 * their_error
    far = np.array([-65504.0, 65504.0])
    assert np.abs(theirs(far) - fn(far)).max() > 60 and (ours(far) == [0.0, 65504.0]).all()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"objective": "maximum"}, "squared, relative, absolute"),
        ({"share": "all", "inputs": (lutc.formats.Inputs(8, 0.125),)}, "genetic or the exact"),
        ({"entries": 1}, "at least 2"),
        ({"prologue": "reduce"}, "no range reduction"),
        ({"prologue": "reduce", "inputs": (lutc.formats.Inputs(8, 0.125),)}, "float inputs"),
        ({"prologue": "abs"}, "auto, none, reduce"),
    ],
)
def test_bad_requests(options, said):
    with pytest.raises(LutcError, match=said):
        lutc.compile("gelu", **{"search": "gradient", "inputs": "grid", "settings": QUICK, **options})


@pytest.mark.parametrize(
    "settings", [{"init": "best"}, {"restarts": 0}, {"steps": -1}, {"batch": 0}, {"rate": 0.0}, {"rate": float("nan")}]
)
def test_bad_settings(settings):
    with pytest.raises(LutcError, match="curvature, random|positive"):
        GradientSettings(**settings)


def test_too_few_entries_for_the_tails():
    samples = grid_samples(functions.get("gelu"), -4.0, 4.0, 50)
    with pytest.raises(LutcError, match="at least 2"):
        gradient(samples, 1, FP32, Line(0.0, 0.0), Line(1.0, 0.0))
    result = gradient(samples, 2, FP32, Line(0.0, 0.0), Line(1.0, 0.0), settings=QUICK)
    assert len(result.cuts) == 1 and result.lines[0].size == 0


def test_without_torch_it_is_one_line():
    code = (
        "import sys; sys.modules['torch'] = None\nfrom lutc.cli import main\nmain(['compile', 'gelu', '--search', "
        "'gradient', '-o', '/dev/null'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pip install 'lutc[torch]'" in done.stderr


def test_the_command_line(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from lutc.cli import main

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        main,
        ["compile", "rsqrt", "--search", "gradient", "--entries", "6", "--objective", "relative", "--init", "random"],
    )
    assert result.exit_code == 0 and "gradient search" in result.output and "lower bound" in result.output
    data = json.loads((tmp_path / "rsqrt_nnlut_6.json").read_text())
    assert (
        list(data["rsqrt"]["fp32"]) == ["breakpoints", "slopes", "intercepts"]
        and data["lutc"]["search"]["init"] == "random"
    )
    assert data["lutc"]["prologue"]["kind"] == "exponent"
    refused = CliRunner().invoke(main, ["compile", "rsqrt", "--init", "random"])
    assert refused.exit_code == 2 and "--search gradient" in refused.stderr


def test_lines_keep_rules():
    """Given breakpoints, lines under rules: 0 at 0 and within bounds, at every sample and at the breakpoints."""
    fn = functions.get("gelu")
    samples = format_samples(fn, "bf16", -4.0, 4.0)
    low = float(fn(samples.x).min())
    rules = Rules.of(formats.get("fp32"), zero=True, low=low, whole=True)
    points = np.array([-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
    tails = (Line(0.0, 0.0), Line(1.0, 0.0))
    free, kept = (_table(samples, points, formats.get("fp32"), *tails, "squared", r) for r in (None, rules))
    assert free[0] <= kept[0] < 3.0 * free[0]
    cuts, (slopes, intercepts) = kept[1:]
    holder = int(np.searchsorted(cuts[1:-1], np.searchsorted(samples.x, 0.0), side="right"))
    assert intercepts[holder] == 0.0 and free[2][1][holder] != 0.0
    for i, j, k, t in zip(cuts, cuts[1:], slopes, intercepts):
        assert min(k * samples.x[max(i - 1, 0)] + t, k * samples.x[j - 1] + t) >= low
