"""Pictures: what is drawn is the table's own numbers, and what is written is a picture."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import lutc
from lutc import functions
from lutc.certify.certificate import function_of
from lutc.cli import main
from lutc.compiler.pipeline import compile
from lutc.errors import LutcError
from lutc.explore.designs import Space
from lutc.explore.evolution import EvolutionSettings, explore
from lutc.formats.codes import Inputs
from lutc.fplut.pipeline import compile_fplut
from lutc.functions import Line
from lutc.plots.figure import save
from lutc.plots.front import front_figure
from lutc.plots.table import table_figure
from lutc.table.bodies import Direct, Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet

BRIEF = EvolutionSettings(population=16, generations=4)


@pytest.fixture(scope="module")
def gelu() -> TableSet:
    return compile("gelu", 8, search="exact")


def panels(figure) -> list:
    """The axes of every table, [[upper, lower, ...], ...]."""
    return [cell.axes for cell in figure.subfigs if cell.axes] if figure.subfigs else [figure.axes]


def stems(axes) -> np.ndarray:
    """(x, height) of the stems drawn."""
    return np.array([[segment[1][0], segment[1][1]] for segment in axes.collections[0].get_segments()])


@pytest.mark.parametrize("key", ["0", "4", "6"])
def test_a_stem_stands_at_every_code_in_range_with_its_error(gelu, key):
    ((upper, lower),) = panels(table_figure(gelu, functions.get("gelu"), [key]))
    x = gelu.inputs[key].x()
    x = x[(x >= -4) & (x <= 4)]
    error = gelu[key](x) - functions.get("gelu")(x)
    drawn = stems(lower)
    assert np.array_equal(drawn[:, 0], x)
    assert np.allclose(drawn[:, 1], error * 1e3, rtol=1e-12, atol=1e-15)
    assert "10^{-3}" in lower.get_ylabel()
    assert f"{gelu.meta['certificate'][key]['range']['mean_squared']:.2e}" in lower.get_title(loc="left")


def test_breakpoints_are_marked_on_the_curve(gelu):
    ((upper, _),) = panels(table_figure(gelu, functions.get("gelu"), ["4"]))
    marks = {line.get_label(): line for line in upper.get_lines()}["breakpoint"]
    assert np.array_equal(marks.get_xdata(), gelu["4"].body.breakpoints)
    assert np.array_equal(marks.get_ydata(), gelu["4"](gelu["4"].body.breakpoints))


def test_all_scales_share_one_error_axis(gelu):
    drawn = panels(table_figure(gelu, functions.get("gelu")))
    assert len(drawn) == 7
    assert len({lower.get_ylim() for _, lower in drawn}) == 1
    low, high = drawn[0][1].get_ylim()
    for _, lower in drawn:
        heights = stems(lower)[:, 1]
        assert low < heights.min() and heights.max() < high


def test_a_stored_half_is_drawn_whole():
    tables = compile("gelu", 8, search="exact", symmetry=True, inputs=(Inputs(8, 2.0**-4),))
    ((upper, _),) = panels(table_figure(tables, function_of(tables)))
    marks = {line.get_label(): line for line in upper.get_lines()}["breakpoint"].get_xdata()
    assert np.array_equal(marks, -marks[::-1]) and 0.0 in marks
    assert "half" in upper.get_title(loc="left")


@pytest.mark.parametrize("name", ["silu", "reciprocal"])
def test_float_tables_show_relative_error_over_all_fp16_inputs(name):
    tables = compile_fplut(name, formats=("fp32",))
    ((upper, absolute, relative),) = panels(table_figure(tables, function_of(tables), ["fp32"]))
    fn = functions.get(name)
    x = relative.get_lines()[0].get_xdata()
    with np.errstate(all="ignore"):
        expected = np.abs(tables["fp32"](x) - fn(x)) / np.maximum(np.abs(fn(x)), 2.0**-14)
    drawn = relative.get_lines()[0].get_ydata()
    assert x.size > 60000
    assert np.allclose(drawn, np.where(expected > 0, expected, np.nan), equal_nan=True)
    assert relative.get_xscale() == "symlog" and relative.get_yscale() == "log"


def test_functions_of_positive_numbers_fill_a_logarithmic_axis():
    tables = compile_fplut("log", formats=("fp32",))
    ((_, _, relative),) = panels(table_figure(tables, function_of(tables), ["fp32"]))
    assert relative.get_xscale() == "log" and relative.get_xlim() == (2.0**-24, 65504.0)


def test_direct_tables_and_foreign_lines_are_drawn(tmp_path):
    inputs = Inputs(8, 2.0**-4)
    direct = TableSet(
        "gelu", {"4": Table(Direct(functions.get("gelu")(inputs.x()), 8, inputs.scale))}, {"4": inputs}, "gelu"
    )
    save(table_figure(direct, functions.get("gelu")), tmp_path / "direct.svg")
    lines = TableSet(
        "silu", {"fp32": Table(Lines([-4.0, 4.0], [0.0, 0.5, 1.0], [0.0, 1.0, 0.0]), left=Line(0.0, 0.0))}, {}, "silu"
    )
    save(table_figure(lines, functions.get("silu")), tmp_path / "lines.pdf")
    assert b"<svg" in (tmp_path / "direct.svg").read_bytes() and (tmp_path / "lines.pdf").read_bytes().startswith(
        b"%PDF"
    )


def test_the_same_table_gives_the_same_bytes(gelu, tmp_path):
    for suffix in ("png", "svg"):
        for name in ("a", "b"):
            save(table_figure(gelu, functions.get("gelu"), ["4"]), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_front_is_drawn_with_its_own_numbers_and_names():
    found = explore(Space("gelu", entries=(2, 8), fraction_bits=(4, 6)), ("bits", "comparators"), settings=BRIEF)
    bits, comparators = front_figure(found).axes
    for axes, of in ((bits, lambda c: c.stored_bits), (comparators, lambda c: c.comparators)):
        drawn = [np.column_stack(line.get_data()) for line in axes.get_lines()]
        expected = np.array([[of(d.cost), d.error] for d in found.front])
        assert any(part.shape == expected.shape and np.allclose(part, expected) for part in drawn)
    texts = [text.get_text() for text in bits.texts]
    assert any(d.choice.coefficients in text for d in found.front for text in texts)
    assert "256 × q2.5" in texts


def test_an_exact_design_has_its_place_on_the_error_axis():
    found = explore(
        Space("gelu", out=Inputs(8, 2.0**-4), objective="codes", entries=(7, 10), fraction_bits=(4, 6)), settings=BRIEF
    )
    (axes,) = front_figure(found).axes
    assert found.front[-1].error == 0
    low, high = axes.get_ylim()
    assert low < 0 < max(d.error for d in found.front) < high
    assert 0.0 in axes.get_yticks() and min(axes.get_yticks()) == 0.0


def test_bad_requests_are_one_clear_error(gelu, tmp_path):
    fn = functions.get("gelu")
    with pytest.raises(LutcError, match="no table '9'"):
        table_figure(gelu, fn, ["9"])
    with pytest.raises(LutcError, match="there is no table to draw"):
        table_figure(gelu, fn, [])
    with pytest.raises(LutcError, match=r"\.png, \.svg or \.pdf files; given 'x.jpg'"):
        save(table_figure(gelu, fn, ["4"]), tmp_path / "x.jpg")
    with pytest.raises(LutcError, match="cannot write"):
        save(table_figure(gelu, fn, ["4"]), tmp_path / "nowhere" / "x.png")
    with pytest.raises(LutcError, match="nothing to draw"):
        table_figure(gelu, lambda x: np.full(np.shape(x), np.nan), ["4"])


def test_command_writes_a_picture_of_a_file(gelu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gelu.save("mine.json")
    result = CliRunner().invoke(main, ["plot", "mine.json", "--key", "4", "--key", "5"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(main, ["plot", "mine.json", "--key", "x"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "no table 'x'" in result.stderr
    result = CliRunner().invoke(main, ["plot", "mine.json", "-o", "mine.txt"])
    assert result.exit_code == 2 and "given 'mine.txt'" in result.stderr and not (tmp_path / "mine.txt").exists()


def test_drawing_leaves_pyplot_alone_and_importing_leaves_matplotlib_alone(tmp_path):
    program = f"""
import sys
import lutc.plots, lutc.plots.table, lutc.plots.front, lutc.commands.plot, lutc.commands.explore, lutc.explore
assert "matplotlib" not in sys.modules
import lutc
from lutc import functions
from lutc.compiler.pipeline import compile
tables = compile("gelu", 4, search="exact")
lutc.plots.save(lutc.plots.table.table_figure(tables, functions.get("gelu")), {str(tmp_path / "x.png")!r})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_panels_of_a_float_table_are_drawn_on_the_same_axes():
    tables = lutc.load("rsqrt_fplut")  # fp16 and fp32 coefficients: errors two decades apart
    for same in zip(*panels(table_figure(tables, function_of(tables))), strict=True):
        assert len({axes.get_xlim() for axes in same}) == len({axes.get_ylim() for axes in same}) == 1


@pytest.mark.parametrize(
    "inputs", [(0.39, 0.41), (4.5, 16.0), (-13.0, 13.0), (0.7, 0.7), (-2200.0, 2500.0), (-40.0, 0.0)]
)
def test_a_calibrations_axis_can_be_read(inputs):
    torch = pytest.importorskip("torch")
    from lutc.calibration import calibrate
    from lutc.plots.calibration import calibration_figure

    low, high = inputs
    batch = torch.linspace(low, high, 1001) if max(-low, high) < 100 else torch.linspace(-13, 13, 1001) ** 3
    figure = calibration_figure(calibrate(torch.nn.Sequential(torch.nn.GELU()), [batch]))
    axes = figure.axes[0]
    figure.canvas.draw()
    left, right = axes.get_xlim()
    shown = [text.get_text() for text, at in zip(axes.get_xticklabels(), axes.get_xticks()) if left <= at <= right]
    assert 3 <= len(set(shown)) == len(shown) <= 12
    assert max(-low, high) > 100 or left - 1e-6 <= low <= high <= right + 1e-6
