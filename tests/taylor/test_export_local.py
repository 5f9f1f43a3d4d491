"""Neurons of each centre's own and Jacobians of a rank in C: against the definition in float64, Python's integers, and
the integer module.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lutc.taylor import integer
from lutc.taylor.cluster import nearest
from lutc.taylor.exporting import probes
from tests.helpers import taylor_c
from tests.helpers.taylor_tables import drawn

needs_gcc = pytest.mark.skipif(not taylor_c.has("gcc"), reason="needs gcc")
needs_cross = pytest.mark.skipif(
    not taylor_c.has(taylor_c.CROSS, "qemu-aarch64"), reason="needs a cross compiler and qemu-user"
)
# gelu's slope is 1.13 at most; erff and the product with it are further roundings.
STEEPEST, ROUNDINGS = 1.13, 8


def made(kind, format):
    table = drawn(k=4)
    if kind == "local":  # whole Jacobians, neurons of each centre's own
        slopes = torch.randn(4, 6, 19 + 5, generator=torch.Generator().manual_seed(7))
        table = replace(table, slopes=slopes, projections=None)
    elif kind == "rank":  # no neurons
        table = replace(table, slopes=table.slopes[..., :4], weights=None, offsets=None, chosen=None, activation=None)
    elif kind == "order 2":
        slopes = torch.randn(4, 6, 2 * 19 + 5, generator=torch.Generator().manual_seed(7))
        table = replace(table, slopes=slopes, projections=None)
    elif kind == "exact sums":  # a neuron is relu of one input
        weights = torch.eye(19)[:11] * torch.tensor([1.0, -1.0])[torch.arange(11) % 2, None]
        table = replace(table, weights=weights, offsets=torch.zeros(11), activation="relu")
    return table.stored(format)


def inputs(table, count=300):
    x = probes(table, count, seed=1)
    x[0], x[1] = 0, 1e-38
    x[2] *= 1e6
    x[3, 5], x[4, 0], x[5, -1] = torch.nan, torch.inf, -torch.inf
    return x


def definition(table, x, owner):
    """Outputs [n, o] in float64, and what their terms add up to."""
    results = []
    slopes = table.real_slopes().double()
    for row, index in zip(x.double(), owner.tolist()):
        z = row - table.centres[index].double()
        z, size = (z, z.abs()) if table.order == 1 else (torch.cat([z, z * z / 2]),) * 2
        if table.projections is not None:
            matrix = table.projections[index].double()
            z, size = matrix @ z, matrix.abs() @ size
        if table.weights is not None:
            own = table.chosen[index].tolist()
            weights, offsets = table.weights.double()[own], table.offsets.double()[own]
            kept = torch.nn.functional.gelu(weights @ row + offsets)
            around = STEEPEST * (weights.abs() @ row.abs() + offsets.abs())
            z, size = torch.cat([z, kept]), torch.cat([size.abs(), around])
        value = table.values[index].double()
        results.append((value + slopes[index] @ z, value.abs() + slopes[index].abs() @ size))
    return [torch.stack(part) for part in zip(*results)]


@needs_gcc
@pytest.mark.parametrize(
    "format, kind, blob",
    [("fp32", "both", True), ("fp16", "both", False), ("bf16", "rank", True), ("fp32", "local", False)],
)
def test_float_c_is_the_definition_within_an_ulp_for_each_term(format, kind, blob, tmp_path):
    check_floats(made(kind, format), tmp_path, [*taylor_c.STRICT, "-O3"], blob)


@needs_gcc
def test_order_2_with_local_neurons(tmp_path):
    check_floats(made("order 2", "fp32"), tmp_path, [*taylor_c.STRICT, "-O1"], False)


def check_floats(table, folder, flags, blob, **where):
    compiler, emulator = where.get("compiler", "gcc"), where.get("emulator")
    program = taylor_c.build(table, folder, *flags, blob=blob, compiler=compiler)
    x = inputs(table)
    blobs = [str(folder / "head.bin")] if blob else []
    owner, y = taylor_c.run(program, table, x, *blobs, emulator=emulator)
    assert torch.isnan(y[3]).all() and not torch.isfinite(y[4:6]).any()
    good = torch.isfinite(x).all(1)
    x, owner, y = x[good], owner[good], y[good]
    assert (owner == nearest(x.double(), table.centres.double())).float().mean() > 0.98
    wanted, size = definition(table, x, owner)
    terms = table.slopes.shape[2] + table.in_features + ROUNDINGS
    assert ((y.double() - wanted).abs() <= 2.0**-23 * terms * size).all()


@needs_gcc
@pytest.mark.parametrize("kind, blob", [("rank", True), ("exact sums", False), ("exact sums", True)])
def test_int8_c_is_the_integer_module_to_the_last_bit(kind, blob, tmp_path):
    check_integers(made(kind, "int8"), tmp_path, [*taylor_c.STRICT, "-O3"], blob)


def check_integers(table, folder, flags, blob, **where):
    compiler, emulator = where.get("compiler", "gcc"), where.get("emulator")
    program = taylor_c.build(table, folder, *flags, blob=blob, compiler=compiler)
    x = inputs(table)
    blobs = [str(folder / "head.bin")] if blob else []
    _, y = taylor_c.run(program, table, x, *blobs, emulator=emulator)
    wanted = integer.IntegerTaylorMLP(table)(x)
    finite = wanted.isfinite()
    assert torch.equal(finite.all(1), torch.isfinite(x).all(1))
    assert torch.equal(y.view(torch.int32)[finite], wanted.view(torch.int32)[finite])
    assert torch.isnan(y[~finite]).all()


@needs_gcc
@pytest.mark.parametrize("kind", ["both", "local", "order 2"])
def test_int8_with_neurons_differs_by_their_floats_alone(kind, tmp_path):
    table = made(kind, "int8")
    program = taylor_c.build(table, tmp_path, "-O1", *taylor_c.STRICT)
    x = probes(table, 300, seed=1)
    _, y = taylor_c.run(program, table, x)
    wanted = integer.IntegerTaylorMLP(table)(x)
    # The last bit of the largest neuron moves the step of all codes.
    assert (y - wanted).abs().max() <= 2e-4 * wanted.abs().max()


@needs_gcc
@pytest.mark.parametrize("format, kind, blob", [("int8", "both", True), ("fp16", "both", False)])
def test_no_sanitizer_objects(format, kind, blob, tmp_path):
    table = made(kind, format)
    program = taylor_c.build(table, tmp_path, *taylor_c.SANITIZED, *taylor_c.STRICT, blob=blob)
    taylor_c.run(program, table, inputs(table, 40), *([str(tmp_path / "head.bin")] if blob else []))


@needs_cross
@pytest.mark.parametrize("format", ["int8", "fp16"])
def test_aarch64_gives_the_same(format, tmp_path):
    flags = ["-std=gnu99", "-O3", "-static", "-Wall", "-Wextra", "-Werror"]
    where = {"compiler": taylor_c.CROSS, "emulator": "qemu-aarch64"}
    if format == "int8":
        check_integers(made("exact sums", format), tmp_path, flags, False, **where)
    else:
        check_floats(made("both", format), tmp_path, flags, False, **where)


def test_integer_projections_are_those_of_python_integers():
    table = made("rank", "int8")
    x = probes(table, 20, seed=3)
    owner = integer.IntegerRouting.of(table.centres).nearest(x).tolist()
    for row, index, given in zip(x, owner, integer.evaluate(table, x)):
        codes, step = coded(row - table.centres[index].float())
        z = []
        for weights in table.projections[index].double().tolist():
            scale = np.float32(max(map(abs, weights)) / 32767)
            total = sum(int(np.rint(weight / float(scale))) * code for weight, code in zip(weights, codes))
            z.append(np.float32(float(total) * float(scale) * float(step)))
        codes, step = coded(torch.tensor(np.array(z)) * table.columns)
        for o in range(table.out_features):
            total = sum(a * b for a, b in zip(table.slopes[index, o].tolist(), codes))
            fine = np.float32(float(total) * float(table.scales[index, o]) * float(step))
            assert given[o].item() == np.float32(table.values[index, o].item()) + fine


def coded(z):
    z = z.numpy()
    step = np.abs(z).max() / np.float32(32767)
    return [int(code) for code in np.rint(z / step)], step


def test_integer_arithmetic_loses_little_beside_floats():
    table = made("both", "int8")
    x = probes(table, 500, seed=4)
    given, wanted = integer.IntegerTaylorMLP(table)(x), table(x)
    assert float((given - wanted).square().sum() / wanted.square().sum()) < 1e-6


@needs_gcc
@pytest.mark.parametrize("format", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ["both", "local"])
def test_the_header_tells_bytes_and_stack(format, kind, tmp_path):
    table = made(kind, format)
    flags = ["-O2", "-fno-inline", "-fno-optimize-sibling-calls", "-fstack-usage", *taylor_c.STRICT]
    taylor_c.build(table, tmp_path, *flags, blob=True)
    words = (tmp_path / "head.h").read_text().split()
    stack, size = int(words[words.index("stack,") - 3]), int(words[words.index("constants;") - 2])
    usage = next(tmp_path.glob("*head.su")).read_text().splitlines()
    frames = {line.split("\t")[0].rsplit(":")[-1]: int(line.split("\t")[1]) for line in usage}
    deepest = frames["head_run"] + max(frames["head_centre"], frames.get("head_dot", 0))
    assert stack <= deepest + 16 and deepest <= stack + 400
    k, d = table.k, table.in_features
    expected = table.storage_bytes - 2 * table.chosen.numel() + 4 * k  # 16-bit numbers of neurons; half norms
    if format == "int8":
        expected += (
            4 * k + 2 * k * d + 4 * k * table.rank
        )  # half norms are wider; codes of centres; projections' scales
    assert size == expected
    assert 0 <= (tmp_path / "head.bin").stat().st_size - size < 64 * 16
