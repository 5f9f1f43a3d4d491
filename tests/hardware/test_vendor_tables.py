"""Tables in the formats of other runtimes, read by their rules, give the integer model's codes."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware import export
from lutc.hardware.export import lut513
from lutc.table.integer import evaluate
from lutc.table.library import load

OUT = Inputs(8, 2.0**-4)


@pytest.mark.parametrize("name", ["gelu_8", "exp_8", "sigmoid_16"])
def test_lut256_in_both_orders(name, tmp_path):
    tables = load(name)
    files = export.render("t", export.units(tables, ["4"], OUT), "lut256")
    q = np.arange(-128, 128)
    want = evaluate(tables["4"], q, tables.inputs["4"], OUT)
    data = json.loads(files["t_4_tosa.json"])
    assert data["op"] == "TABLE" and [data["table"][code + 128] for code in q] == want.tolist()
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for the header")
    (tmp_path / "t.h").write_text(files["t_4_lut256.h"])
    (tmp_path / "m.c").write_text(
        '#include <stdio.h>\n#include "t.h"\nint main(void) { for (int q = -128; q < 128; ++q) '
        'printf("%d %d\\n", t_4_ascending[q + 128], t_4_by_bits[(uint8_t)q]); return 0; }\n'
    )
    subprocess.run(["gcc", "-std=c99", "-Wall", "-Werror", "-o", "m", "m.c"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "m"], capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, said)) == np.repeat(want, 2).tolist()


def scalar_look_up(q: int, v: list[int]) -> int:
    """LiteRT's LUTLookup for int16, one number at a time."""
    index, offset = 256 + (q >> 7), q & 0x7F
    slope = v[index + 1] - v[index]
    assert -32768 <= slope <= 32767
    return v[index] + ((slope * offset + 64) >> 7)


@pytest.mark.parametrize(
    ("name", "scale", "out"),
    [("gelu_fplut", 2**-12, 2**-12), ("sigmoid_fplut", 2**-12, 2**-15), ("tanh_fplut", 3e-4, 2**-15)],
)
def test_lut513_beats_samples_under_the_rule(name, scale, out):
    table = load(name)["fp32"]
    inputs, out = Inputs(16, scale), Inputs(16, out)
    found = lut513.fit(table, inputs, out)
    q = inputs.codes()
    scalar = [scalar_look_up(int(code), found.knots.tolist()) for code in q[::97]]
    assert scalar == lut513.look_up(found.knots, q)[::97].tolist()
    target = np.clip(table(inputs.x()) / out.scale, -32768, 32767)
    assert found.mean_squared == np.square(lut513.look_up(found.knots, q) - target).mean() < found.sampled_mean_squared
    # no single knot can be moved to advantage
    best = np.square(lut513.look_up(found.knots, q) - target).sum()
    for at in (0, 100, 256, 300, 512):
        for by in (-1, 1):
            moved = found.knots.copy()
            moved[at] = np.clip(moved[at] + by, -32768, 32767)
            assert np.square(lut513.look_up(moved, q) - target).sum() >= best - 1e-6 * best


def test_lut513_refuses():
    with pytest.raises(LutcError, match="not finite"):
        lut513.fit(load("log_fplut")["fp32"], Inputs(16, 2**-12), Inputs(16, 2**-12))
    with pytest.raises(LutcError, match="zero points 0"):
        lut513.fit(load("gelu_fplut")["fp32"], Inputs(16, 2**-12, 5), Inputs(16, 2**-12))


def test_gqa_lut_both_ways(tmp_path):
    tables = load("gelu_8")
    (tmp_path / "g.json").write_text(export.TABLE_FORMATS["gqa-lut"][1]("g", tables, list(tables))["g_gqa_lut.json"])
    again = load(str(tmp_path / "g.json"))
    x = np.linspace(-6, 6, 2001)
    for key in tables:
        np.testing.assert_array_equal(again[key](x), tables[key](x))


@pytest.mark.parametrize("name", ["gelu_8", "silu_nnlut_16"])
def test_nn_lut_both_ways(name, tmp_path):
    tables = load(name)
    key = tables.default_key
    (file,) = export.TABLE_FORMATS["nn-lut"][1]("n", tables, [key]).items()
    assert file[0] == f"n_{key}_nn_lut.json" and "Infinity" not in file[1]
    (tmp_path / "n.json").write_text(file[1])
    again = load(str(tmp_path / "n.json"))
    x = np.linspace(-9, 9, 3001)
    np.testing.assert_array_equal(again["fp32"](x), tables[key](x))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gelu_fplut", "--format", "nn-lut"], "no table of lines"),
        (["gelu_8", "--format", "lut256"], "give --out-scale"),
        (["gelu_8", "--format", "lut256", "--out-scale", "1", "--out-bits", "16"], "8 bits to 8 bits"),
        (["gelu_fplut", "--format", "lut513", "--out-scale", "1"], "give --in-scale"),
        (["gelu_8", "--format", "csv", "--in-scale", "1"], "--in-scale is for lut513"),
        (["gelu_fplut", "--format", "gqa-lut"], "no table of lines"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_writes_nothing(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["export", *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "out").exists()


def test_the_command(tmp_path):
    run = CliRunner().invoke
    out, scales = ["-o", str(tmp_path), "--json"], ["--in-scale", "2^-12", "--out-scale", "2^-12"]
    data = json.loads(run(main, ["export", "gelu_fplut", "--format", "lut513", *scales, *out]).output)
    assert data["units"][0]["mean_squared_codes"] < data["units"][0]["sampled_mean_squared_codes"]
    assert (tmp_path / "gelu_fplut_fp32_lut513.h").exists() and (tmp_path / "gelu_fplut_fp32_tosa.json").exists()
    assert run(main, ["export", "gelu_8", "--format", "gqa-lut", *out]).exit_code == 0
