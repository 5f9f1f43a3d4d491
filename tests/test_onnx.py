"""Modules and patched models as ONNX, run in onnxruntime beside torch: every code, every value of fp16, any length."""

import copy
import warnings

import numpy as np
import pytest
import torch

from lutc import nn
from lutc.errors import LutcError
from tests.helpers import tiny_models

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

from lutc import onnx as lutc_onnx  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporter and onnxscript warn of themselves

HALF = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
INT8 = torch.arange(-128, 128, dtype=torch.int8)
ENDS = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, -1e-40, 3e38, -3e38, 1.0, 2.0, 4.0])
LENGTH = {0: torch.export.Dim("n", min=2)}


def floats(n=4000, spread=4.0):
    return torch.cat([torch.randn(n, generator=torch.Generator().manual_seed(0)) * spread, ENDS])


class Each(torch.nn.Module):
    """One output for each module, of its own input, or all of the same one: one export for many."""

    def __init__(self, modules):
        super().__init__()
        self.parts = torch.nn.ModuleList(modules)

    def forward(self, *inputs):
        inputs = inputs if len(inputs) == len(self.parts) else inputs * len(self.parts)
        return tuple(part(x) for part, x in zip(self.parts, inputs))


def run(modules, *inputs, path, shapes=None, **options):
    """The comparison of each module's output."""
    shapes = None if shapes is None else (tuple(shapes for _ in inputs),)
    found = lutc_onnx.export(Each(modules), inputs, path / "m.onnx", dynamic_shapes=shapes, **options)
    model = onnx.load(path / "m.onnx")
    assert {node.domain for function in model.functions for node in function.node} == {""}
    called = {node.op_type for node in model.graph.node if node.domain == "lutc"}
    assert called == {function.name for function in model.functions if function.domain == "lutc"} != set()
    assert len(found) == len(modules)
    return found


@pytest.mark.slow
def test_tables_on_every_fp16_value(tmp_path):
    names = ["gelu_8", "silu_fplut", "exp_fplut", "rsqrt_fplut", "log_fplut", "sin_fplut", "gelu_nnlut_16"]
    bitwise = [nn.FPLUT(func_name="silu", arithmetic=arithmetic) for arithmetic in ("fp16_rne", "fp16_trunc")]
    found = run([*map(nn.LUT, names), *bitwise], HALF, path=tmp_path, shapes=LENGTH)
    assert [(one.values, one.different) for one in found] == [(65536, 0)] * len(found)


def test_float32_within_an_ulp_of_the_terms(tmp_path):
    modules, x = [nn.LUT(name) for name in ("gelu_8", "gelu_fplut", "exp_fplut")], floats()
    run(modules, x, path=tmp_path)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for module, got in zip(modules, session.run(None, {session.get_inputs()[0].name: x.numpy()})):
        want = next(iter(module.tables.values()))(x.double().numpy())
        finite = np.isfinite(want) & (np.abs(want) < 3e38)
        terms = np.maximum(np.abs(want), 2 * np.abs(x.numpy().astype(np.float64)))[finite]
        # float64 interpolates between cuts: 1e-18 is its own rounding beside a cut at 0
        allowed = 1.5 * np.spacing(terms.clip(2.0**-126, 3e38).astype(np.float32)).astype(np.float64) + 1e-18
        assert (np.abs(got[finite] - want[finite]) <= allowed).all()
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got[~finite], want[~finite].astype(np.float32))


@pytest.mark.slow
def test_float64_is_the_same(tmp_path):
    (found,) = run([nn.LUT("reciprocal_fplut")], floats().double(), path=tmp_path)
    assert found.different == 0


QUANTISED = [
    (lambda: nn.QuantLUT("gelu_8", scale=2**-4, out_scale=2**-4), INT8),
    (lambda: nn.QuantLUT("gelu_8", scale=0.07, zero_point=5, out_scale=0.03, out_zero_point=-9), INT8),
    (lambda: nn.QuantLUT("exp_8", scale=0.05), INT8),
    (lambda: nn.QuantLUT("silu_8", scale=2**-4, out_scale=2**-3, rounding="half_away"), INT8),
    (lambda: nn.QuantLUT("silu_8", scale=2**-4, out_scale=2**-3, out_zero_point=5, rounding="half_even"), INT8),
    (lambda: nn.QuantLUT("gelu_8", scale=0.07, out_scale=0.03), floats()),
    (lambda: nn.FakeQuantize(0.07), floats()),
    (lambda: nn.FakeQuantize("dynamic"), floats()),
]


def seen(module):
    """The module behind a batch in training mode, in eval mode."""
    module.train()(torch.randn(1000, generator=torch.Generator().manual_seed(7)))
    return module.eval()


class AtScale(torch.nn.Module):
    """A QuantLUT whose scale comes with every call."""

    def __init__(self):
        super().__init__()
        self.table = nn.QuantLUT("silu_8", out_scale=0.02)

    def forward(self, x):
        return self.table(x, x.abs().amax(0) / 127)


HALVES = torch.arange(-300, 300) + 0.5  # between two codes
SCALED = [
    (lambda: nn.QuantLUT("gelu_8", scale=0.07, zero_point=5, out_scale=0.03, out_zero_point=-9), HALVES * 0.07),
    (
        lambda: nn.QuantLUT("gelu_8", scale=0.07, zero_point=128, out_scale=0.03, out_zero_point=7, signed=False),
        floats(),
    ),
    (lambda: nn.QuantLUT("gelu_8", scale=0.5, bits=4, out_scale=0.5), floats()),
    (lambda: nn.QuantLUT("gelu_8", scale=0.07, out_scale=0.03), floats().half()),
    (lambda: nn.QuantLUT("gelu_8", scale=0.07, out_scale=0.03), floats().double()),
    (lambda: nn.QuantLUT("gelu_8", scale=2**-9, bits=16, out_scale=2**-9), torch.arange(-32768, 32768).short()),
    (lambda: nn.FakeQuantize(0.03, bits=6, zero_point=7, signed=False), floats()),
    (lambda: seen(nn.FakeQuantize("learned")), floats()),
    (lambda: seen(nn.QuantLUT("gelu_8", scale="learned", out_scale=0.03)), floats()),
    (lambda: seen(nn.QuantLUT("gelu_8", scale="learned", out_scale=0.03)), INT8),
    (lambda: seen(nn.QuantLUT("gelu_8", scale="observed")), floats()),
    (lambda: nn.QuantLUT("gelu_8", scale=torch.nn.Parameter(torch.tensor([0.07])), out_scale=0.03), floats()),
    *(
        (lambda rounding=rounding: nn.QuantLUT("silu_8", scale="dynamic", out_scale=0.03, rounding=rounding), floats())
        for rounding in ("half_up", "half_away", "half_even")
    ),
    (lambda: nn.QuantLUT("exp_8", scale="dynamic"), floats()),
    (AtScale, floats()[:4000]),
]


def same_bits(cases, path, opset=18):
    inputs = [x for _, x in cases]
    found = run([make() for make, _ in cases], *inputs, path=path, opset=opset)
    assert [(one.values, one.different) for one in found] == [(x.numel(), 0) for x in inputs]


def test_quantised_to_the_bit(tmp_path):
    same_bits(QUANTISED, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
def test_any_scale_and_width_to_the_bit(opset, tmp_path):
    same_bits([*QUANTISED, *SCALED], tmp_path, opset)


def test_codes_are_a_gather_between_quantize_and_dequantize(tmp_path):
    module = nn.QuantLUT("gelu_8", scale=0.07, zero_point=5, out_scale=0.03, out_zero_point=-9)
    lutc_onnx.export(module, (floats(100),), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    ((call,), (function,)) = model.graph.node, model.functions
    assert (call.domain, call.op_type) == (function.domain, function.name) == ("lutc", "QuantLUT")
    kinds = [node.op_type for node in function.node if node.op_type != "Constant"]
    assert kinds == ["QuantizeLinear", "Cast", "Sub", "Gather", "DequantizeLinear", "IsNaN", "Where"]
    values = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in function.node
        if node.op_type == "Constant"
    }
    for kind, scale, zero_point in (("QuantizeLinear", 0.07, 5), ("DequantizeLinear", 0.03, -9)):
        (node,) = (node for node in function.node if node.op_type == kind)
        assert values[node.input[1]] == np.float32(scale)
        assert values[node.input[2]] == zero_point and values[node.input[2]].dtype == np.int8
    (table,) = map(onnx.numpy_helper.to_array, model.graph.initializer)
    np.testing.assert_array_equal(table, module(torch.arange(-128, 128, dtype=torch.int8)).numpy())


class Chain(torch.nn.Module):
    """Two tables of one shape, one twice; two of quantised inputs; a layer between, and an output that is a table's."""

    def __init__(self):
        super().__init__()
        self.gelu, self.silu, self.codes = nn.LUT("gelu_16"), nn.LUT("silu_16"), nn.QuantLUT("silu_8", scale=2**-4)
        self.linear, self.norm = torch.nn.Linear(8, 8), nn.LUTRMSNorm(8)

    def forward(self, x):
        gate = self.gelu(x)
        return gate, self.codes(self.norm(self.silu(self.linear(gate)))), self.gelu(x + 1)


def test_tables_of_one_shape_share_a_local_function(tmp_path):
    module, x = Chain().eval(), torch.randn(5, 8, generator=torch.Generator().manual_seed(6))
    found = lutc_onnx.export(module, (x,), tmp_path / "m.onnx", output_names=["gate", "y", "z"])
    assert [one.name for one in found] == ["gate", "y", "z"] and max(one.largest for one in found) < 1e-5
    model = onnx.load(tmp_path / "m.onnx")
    calls = [node.op_type for node in model.graph.node if node.domain == "lutc"]
    assert sorted(calls) == ["LUT", "LUT", "LUT", "LUTRMSNorm", "QuantLUT"]
    assert sorted(function.name for function in model.functions) == ["LUT", "LUTRMSNorm", "QuantLUT"]
    # the same model without a function gives the same bits
    from onnx import inliner

    onnx.save(inliner.inline_local_functions(model), tmp_path / "inlined.onnx")
    assert not onnx.load(tmp_path / "inlined.onnx").functions
    with torch.no_grad():
        again = lutc_onnx.compare(tmp_path / "inlined.onnx", (x,), module(x))
    assert [(one.different, one.largest) for one in again] == [(one.different, one.largest) for one in found]


def test_scales_that_are_not_there(tmp_path):
    x = floats(100)
    with pytest.raises(LutcError, match="0 has seen no batch yet"):
        lutc_onnx.export(
            torch.nn.Sequential(nn.QuantLUT("gelu_8", scale="learned").quantise), (x,), tmp_path / "m.onnx"
        )
    with pytest.raises(LutcError, match="no scale of its own"):
        lutc_onnx.export(nn.QuantLUT("gelu_8"), (x,), tmp_path / "m.onnx")
    with pytest.raises(LutcError, match="a dynamic scale is that of floats"):
        lutc_onnx.export(nn.QuantLUT("gelu_8", scale="dynamic"), (INT8,), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def rows(n=64, count=300):
    q = torch.randint(-128, 128, (count, n), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    q[0], q[1], q[2, ::2] = -128, 127, -128
    return q


@pytest.mark.slow
def test_integer_rows_to_the_bit(tmp_path):
    weight, bias = torch.linspace(-1, 2, 64), torch.linspace(-1, 1, 64)
    modules = [
        nn.IntegerSoftmax(),
        nn.IntegerSoftmax(out_dtype=torch.int8, out_scale=1 / 200),
        nn.IntegerLayerNorm(weight, bias, scale=0.06, zero_point=3, out_scale=0.03),
        nn.IntegerRMSNorm(weight, scale=2**-4, out_scale=2**-5),
    ]
    found = run(modules, rows(), path=tmp_path, shapes={0: torch.export.Dim("rows", min=2)})
    assert [(one.values, one.different) for one in found] == [(rows().numel(), 0)] * 4


def test_integer_softmax_with_a_mask(tmp_path):
    q = rows()
    mask = torch.rand(q.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[5] = False
    (found,) = lutc_onnx.export(nn.IntegerSoftmax(), (q, mask), tmp_path / "m.onnx")
    assert (found.values, found.different) == (q.numel(), 0)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 5e-3)], ids=["fp32", "fp16"])
def test_float_rows(dtype, most, tmp_path):
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)) * 5
    x[0], x[1, 3], x[2, 0] = 0.0, float("inf"), float("nan")
    softmaxes = [nn.LUTSoftmax(), nn.LUTSoftmax("exp_fplut", "reciprocal_fplut")]
    modules = [*softmaxes, nn.LUTLayerNorm(64), nn.LUTRMSNorm(64)]
    found = run(modules, x.to(dtype), path=tmp_path, shapes={0: torch.export.Dim("rows", min=2)})
    assert all(one.largest < most for one in found)


@pytest.mark.slow
def test_a_patched_model_of_any_batch_and_length(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**tiny_models.SIZES, "num_hidden_layers": 1})
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    nn.patch(model, activation="gelu_fplut", softmax="exp_fplut", norm="rsqrt_fplut")
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=512)
    ids = torch.randint(3, 50, (3, 11), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    both = {0: batch, 1: length}
    (found,) = lutc_onnx.export(
        Hidden(model), (ids, mask), tmp_path / "bert.onnx", dynamic_shapes=(both, both), input_names=["ids", "mask"]
    )
    assert found.largest < 1e-5 and not any(module.training for module in model.modules())
    other = torch.randint(3, 50, (5, 23), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = Hidden(model)(other, torch.ones_like(other))
    (again,) = lutc_onnx.compare(tmp_path / "bert.onnx", (other, torch.ones_like(other)), wanted)
    assert again.values == wanted.numel() and again.largest < 1e-5


class Hidden(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def test_torch_exports_without_our_help_and_torch_stays_as_it_was(tmp_path):
    module, x = nn.LUT("gelu_8"), floats(100)
    before = module(x)
    program = torch.onnx.export(copy.deepcopy(module).eval(), (x,), dynamo=True, verbose=False)
    assert "lut" not in {node.op_type for node in program.model_proto.graph.node}
    torch.testing.assert_close(module(x), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_keeps_the_operator(strict):
    x = floats(100)
    program = torch.export.export(nn.LUT("gelu_8").eval(), (x,), strict=strict)
    assert any("lutc.lut" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), nn.LUT("gelu_8")(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
def test_aot_inductor(tmp_path):
    module, x = nn.LUT("gelu_8").eval(), floats(100)
    program = torch.export.export(module, (x,))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "m.pt2"))
    found = torch._inductor.aoti_load_package(package)(x)
    torch.testing.assert_close(found, module(x), rtol=0, atol=0, equal_nan=True)


def test_trace():
    x, module = floats(100), nn.LUT("gelu_8").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (x,), check_trace=False)
    torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LUT("gelu_8"),
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), nn.QuantLUT("gelu_8", scale=2**-4)),
        lambda: nn.LUTSoftmax(),
        lambda: nn.IntegerSoftmax(),
        lambda: nn.LUTLayerNorm(4),
        lambda: nn.FakeQuantize(0.1),
    ],
)
def test_script_is_one_clear_error(make):
    with pytest.raises(LutcError, match="trace the model"):
        torch.jit.script(make())


def test_bad_input(tmp_path):
    module, x = nn.LUT("gelu_8"), torch.randn(4)
    with pytest.raises(LutcError, match="18 to 21"):
        lutc_onnx.export(module, (x,), tmp_path / "m.onnx", opset=12)
    with pytest.raises(LutcError, match="no such folder"):
        lutc_onnx.export(module, (x,), tmp_path / "none" / "m.onnx")
    with pytest.raises(LutcError, match="float32, float16"):
        lutc_onnx.export(module, (torch.arange(4),), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
