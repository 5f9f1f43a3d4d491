import dataclasses
import itertools
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor import integer
from lutc.taylor.c_source import c_files, c_name
from lutc.taylor.c_templates import ACTIVATIONS
from lutc.taylor.exporting import export_c, export_onnx, probes
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.module import TaylorMLP
from lutc.taylor.onnx_graph import onnx_graph
from lutc.taylor.table import TaylorTable
from tests.helpers import taylor_c

D, OUT, K = 45, 13, 7  # odd ones: no sum ends with a whole group of lanes
needs_gcc = pytest.mark.skipif(not taylor_c.has("gcc"), reason="needs gcc")


@pytest.fixture(scope="module")
def tables():
    """By (order, function of kept neurons): fitted in fp32."""
    torch.manual_seed(0)
    found = {}
    x = torch.randn(2000, D) * torch.logspace(-2, 1, D)
    for order, function, layer in ((1, None, nn.GELU), (2, None, nn.GELU), (1, "relu", nn.ReLU), (1, "gelu", nn.GELU)):
        mlp = nn.Sequential(nn.Linear(D, 60), layer(), nn.Linear(60, OUT)).requires_grad_(False).eval()
        found[order, function] = fit(mlp, x, TaylorSettings(k=K, order=order, neurons=9 if function else 0))
    return found


@needs_gcc
@pytest.mark.parametrize("format", ["fp32", "fp16", "int8"])
def test_whole_groups_of_lanes_compile_without_a_warning(format, tmp_path):
    torch.manual_seed(0)
    table = TaylorTable(torch.randn(3, 32), torch.randn(3, 4), torch.randn(3, 4, 32), torch.ones(3, dtype=torch.int64))
    table = table.stored(format)
    program = taylor_c.build(table, tmp_path, "-O3", *taylor_c.STRICT)
    x = torch.randn(50, 32)
    owner, y = taylor_c.run(program, table, x)
    if format == "int8":
        assert torch.equal(y, integer.evaluate(table, x))
    else:
        torch.testing.assert_close(y, reference(table, x, owner)[0].float(), rtol=1e-5, atol=1e-4)


def inputs(table, count=400):
    x = probes(table, count, seed=1)
    x[0], x[1] = 0, 1e-38  # no step, and a subnormal one
    x[2] *= 1e6
    x[6] = 1e25  # its square is no float
    x[3, 5], x[4, 0], x[5, -1] = torch.nan, torch.inf, -torch.inf
    return x


def reference(table, x, owner):
    """Outputs [n, o] by each row's centre `owner`, and what their terms add up to, both in float64."""
    y, size = [], []
    slopes = table.real_slopes().double()
    for row, index in zip(x.double(), owner.tolist()):
        z = table.features(row[None], index)[0]
        y.append(table.values[index].double() + slopes[index] @ z)
        size.append(table.values[index].double().abs() + slopes[index].abs() @ z.abs())
    return torch.stack(y), torch.stack(size)


def within(y, wanted, bound, size):
    """Whether outputs are within the bound where their terms are floats, and no numbers where they overflow."""
    fits = size < torch.finfo(torch.float32).max
    return bool((((y.double() - wanted).abs() <= bound) | ~fits).all() and not torch.isfinite(y[~fits]).any())


def is_nearest(table, x, owner, allowed=1e-5):
    """Whether no centre is nearer than the one chosen, up to rounding."""
    distance = torch.cdist(x.double(), table.centres.double())
    chosen = distance.gather(1, owner[:, None])[:, 0]
    return bool((chosen <= distance.amin(1) * (1 + allowed) + allowed * x.double().norm(dim=1)).all())


@needs_gcc
@pytest.mark.parametrize(
    "format, key, blob",
    [
        ("fp32", (1, None), False),
        ("fp32", (1, "gelu"), True),
        ("fp16", (2, None), True),
        ("fp16", (1, "relu"), False),
        ("bf16", (1, None), False),
    ],
)
def test_float_c_is_the_definition_within_an_ulp_for_each_term(tables, tmp_path, format, key, blob):
    table = tables[key].stored(format)
    program = taylor_c.build(table, tmp_path, "-O3", *taylor_c.STRICT, blob=blob)
    x = inputs(table)
    owner, y = taylor_c.run(program, table, x, *([str(tmp_path / "head.bin")] if blob else []))
    good = torch.isfinite(x).all(1)
    assert torch.isnan(y[3]).all() and not torch.isfinite(y[4:6]).any()
    x, owner, y = x[good], owner[good], y[good]
    assert is_nearest(table, x, owner)
    wanted, size = reference(table, x, owner)
    bound = 2.0**-23 * (table.slopes.shape[2] + (D if key[1] else 0)) * size
    assert within(y, wanted, bound, size)
    with torch.no_grad():
        module = TaylorMLP(table)(x)
    same = TaylorMLP(table)(x[:, None])[:, 0].isfinite().all(1) & (integer_free_owner(table, x) == owner)
    # The module folds the centres into its constants, whose terms count as well.
    folded = size + (table.real_slopes()[..., :D].double().abs() @ table.centres.double().abs()[..., None])[owner, :, 0]
    assert ((y - module).abs() <= 2.0**-22 * table.slopes.shape[2] * folded)[same].all()
    assert same.float().mean() > 0.9


def integer_free_owner(table, x):
    from lutc.taylor.cluster import nearest

    return nearest(x, table.centres.float())


@needs_gcc
@pytest.mark.parametrize("key, blob", [((1, None), False), ((2, None), True), ((1, "relu"), False)])
def test_int8_c_is_the_integer_module_to_the_last_bit(tables, tmp_path, key, blob):
    table = tables[key].stored("int8")
    program = taylor_c.build(table, tmp_path, "-O3", *taylor_c.STRICT, blob=blob)
    x = inputs(table)
    _, y = taylor_c.run(program, table, x, *([str(tmp_path / "head.bin")] if blob else []))
    wanted = integer.IntegerTaylorMLP(table)(x)
    if key[1] is None:
        finite = wanted.isfinite()
        assert torch.equal(y.view(torch.int32)[finite], wanted.view(torch.int32)[finite])
        assert torch.isnan(y[~finite]).all() and finite[good_rows(x)].sum() >= 390 * OUT
    else:  # kept neurons are sums of floats
        assert (y - wanted).abs()[good_rows(x)].max() <= 2e-4 * wanted[good_rows(x)].abs().max()
    assert torch.isnan(y[3:6]).all() and torch.isnan(wanted[3:6]).all()


def good_rows(x):
    return torch.isfinite(x).all(1)


@needs_gcc
@pytest.mark.parametrize("format, key, blob", [("int8", (2, None), True), ("fp16", (1, "relu"), False)])
def test_no_sanitizer_objects(tables, tmp_path, format, key, blob):
    table = tables[key].stored(format)
    program = taylor_c.build(table, tmp_path, *taylor_c.SANITIZED, *taylor_c.STRICT, blob=blob)
    taylor_c.run(program, table, inputs(table, 40), *([str(tmp_path / "head.bin")] if blob else []))


@pytest.mark.skipif(not taylor_c.has(taylor_c.CROSS, "qemu-aarch64"), reason="needs a cross compiler and qemu-user")
@pytest.mark.parametrize("format", ["int8", "fp16"])
def test_aarch64_gives_the_same(tables, tmp_path, format):
    table = tables[2, None].stored(format)
    # gcc's own dialect: products may be fused into sums there.
    flags = ["-std=gnu99", "-O3", "-static", "-Wall", "-Wextra", "-Werror"]
    program = taylor_c.build(table, tmp_path, *flags, compiler=taylor_c.CROSS)
    x = inputs(table)
    good = good_rows(x)
    owner, y = taylor_c.run(program, table, x, emulator="qemu-aarch64")
    if format == "int8":
        torch.testing.assert_close(y, integer.evaluate(table, x), rtol=0, atol=0, equal_nan=True)
    else:
        wanted, size = reference(table, x[good], owner[good])
        assert within(y[good], wanted, 2.0**-23 * table.slopes.shape[2] * size, size)
    assert torch.isnan(y[3]).all()


def test_integer_arithmetic_is_that_of_python_integers(tables):
    table = tables[2, None].stored("int8")
    x = probes(table, 20, seed=3)
    x[0] = 0
    given = integer.evaluate(table, x).numpy()
    centres = table.centres.double().numpy()
    unit = np.abs(centres).max() / 32767
    codes = np.rint(centres / unit)
    for row, got in zip(x.numpy(), given):
        q, step = coded(row)
        scores = [
            sum(a * int(b) for a, b in zip(q, c)) - sum(int(b) ** 2 for b in c) * unit / 2 / float(step) for c in codes
        ]
        k = int(np.argmax(scores))
        z = row - table.centres[k].float().numpy()
        z = np.concatenate([z, z * z / np.float32(2)]) * table.columns.numpy()
        q, step = coded(z)
        for o in range(OUT):
            total = sum(int(a) * b for a, b in zip(table.slopes[k, o].tolist(), q))
            fine = np.float32(float(total) * float(table.scales[k, o]) * float(step))
            assert got[o] == np.float32(table.values[k, o].item()) + fine


def coded(row):
    largest = np.abs(row).max()
    step = largest / np.float32(32767) if largest > 1e-30 else np.float32(1)
    return [int(v) for v in np.rint(row / step)], step


def test_integer_arithmetic_loses_little_beside_floats(tables):
    for table in (tables[1, None].stored("int8"), tables[1, "relu"].stored("int8")):
        x = probes(table, 500, seed=4)
        given, wanted = integer.IntegerTaylorMLP(table)(x), table(x)
        assert float((given - wanted).square().sum() / wanted.square().sum()) < 1e-6


@needs_gcc
def test_a_blob_that_is_not_the_table_is_refused(tables, tmp_path):
    table = tables[1, None].stored("int8")
    program = taylor_c.build(table, tmp_path, "-O1", blob=True)
    whole = (tmp_path / "head.bin").read_bytes()
    other = export_c(tables[2, None].stored("int8"), tmp_path / "other", "head", blob=True)[-1].read_bytes()
    longer = other + bytes(max(0, len(whole) - len(other)))
    for payload, skip, status in (
        (whole, "0", 0),
        (whole[:-1], "0", 11),
        (b"", "0", 11),
        (longer, "0", 12),
        (b"\0" * len(whole), "0", 12),
        (whole, "4", 13),
    ):
        (tmp_path / "given.bin").write_bytes(payload)
        done = subprocess.run([program, str(tmp_path / "given.bin"), skip], input=b"")
        assert done.returncode == status, (len(payload), skip)


@needs_gcc
@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations_in_c_are_torchs(function, tmp_path):
    from lutc.functions.in_torch import value

    x = torch.cat([torch.linspace(-12, 12, 2001), torch.tensor([torch.nan])])
    (tmp_path / "f.c").write_text(
        "#include <math.h>\n#include <stdio.h>\nint main(void) { float t; while (fread(&t, 4, 1, stdin) == 1) "
        f"{{ float y = {ACTIVATIONS[function]}; fwrite(&y, 4, 1, stdout); }} return 0; }}"
    )
    subprocess.run(["gcc", "-std=c99", "f.c", "-lm", "-o", "f"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "f"], input=x.numpy().tobytes(), capture_output=True)
    given = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy())
    torch.testing.assert_close(given, value(function, x), rtol=2e-6, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize(
    "format, key, opset", list(itertools.product(("fp32", "fp16", "int8"), ((1, None), (2, None)), (18, 20)))
)
def test_onnx_is_the_table(tables, tmp_path, format, key, opset):
    onnxruntime = pytest.importorskip("onnxruntime")
    table = tables[key].stored(format)
    path, largest = export_onnx(table, tmp_path / "head.onnx", opset)
    x = inputs(table)
    given = torch.from_numpy(onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})[0])
    good = good_rows(x)
    assert torch.isnan(given[3]).all()
    wanted = table(x)
    rows = good & (wanted.abs().amax(1) < 1e6)
    torch.testing.assert_close(given[rows], wanted[rows], rtol=1e-4, atol=1e-4 * float(wanted[rows].abs().max()))
    assert largest < 1e-5


@pytest.mark.parametrize("function", ["relu", "gelu"])
@pytest.mark.parametrize("opset", [18, 21])
def test_onnx_keeps_neurons_and_standard_operators(tables, function, opset):
    onnxruntime = pytest.importorskip("onnxruntime")
    table = tables[1, function].stored("fp16")
    model = onnx_graph(table, opset)
    kinds = {node.op_type for node in model.graph.node}
    assert {"MatMul", "ArgMin", "Gather"} <= kinds
    assert all(node.domain == "" for node in model.graph.node)
    x = probes(table, 100, seed=5)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), table(x), rtol=1e-4, atol=1e-4)


def test_bad_input_is_one_line(tables, tmp_path, monkeypatch):
    table = tables[1, None]
    far = dataclasses.replace(table, radii=torch.ones(K))
    tanh = dataclasses.replace(tables[1, "relu"], activation="erf")
    for call, words in (
        (lambda: export_c(far, tmp_path / "a", "head"), "fallback"),
        (lambda: export_onnx(far, tmp_path / "a" / "head.onnx"), "fallback"),
        (lambda: export_c(tanh, tmp_path / "a", "head"), "have no C"),
        (lambda: onnx_graph(tanh), "no standard operator"),
        (lambda: onnx_graph(table.stored("bf16")), "bf16"),
        (lambda: onnx_graph(table, 17), "opset"),
        (lambda: integer.evaluate(table, torch.zeros(1, D)), "needs int8"),
        (lambda: export_c(table, tmp_path / "file" / "b", "head"), "cannot make"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(LutcError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr("lutc.taylor.c_source.STATIC_LIMIT", 100)
    with pytest.raises(LutcError, match="--blob"):
        c_files(table, "head")
    assert set(c_files(table, "head", blob=True)) == {"head.h", "head.c", "head.bin"}


@pytest.mark.parametrize(
    "name, identifier",
    [("layer-0", "layer_0"), ("0", "table_0"), ("größe", "gr__e"), ("x", "x"), ("math", "table_math"), ("", "table_")],
)
def test_names_become_identifiers(name, identifier):
    assert c_name(name) == identifier


def test_the_command_writes_what_it_names(tables, tmp_path):
    pytest.importorskip("onnxruntime")
    from click.testing import CliRunner

    from lutc.commands.taylor import taylor

    tables[1, None].stored("int8").save(tmp_path / "layer-0")

    def exported(*options):
        return CliRunner().invoke(taylor, ["export", str(tmp_path / "layer-0.json"), *options])

    done = exported("--format", "c", "--blob", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0 and done.output.count("wrote ") == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"layer_0.h", "layer_0.c", "layer_0.bin"}
    done = exported("--format", "onnx", "--name", "mlp", "-o", str(tmp_path / "out"), "--opset", "19")
    assert done.exit_code == 0 and (tmp_path / "out" / "mlp.onnx").exists()
    assert "onnxruntime differs from the table by at most" in done.output
    assert isinstance(exported("--format", "onnx", "--blob").exception, LutcError)
    dataclasses.replace(tables[1, None], radii=torch.ones(K)).save(tmp_path / "layer-0")
    done = exported("--format", "c", "-o", str(tmp_path / "refused"))
    assert "--fallback 0" in str(done.exception) and not (tmp_path / "refused").exists()
