"""Activations of a converted PT2E graph become tables on the graph's own codes."""

import pytest
import torch
from torch import nn

from lutc import functions
from lutc.errors import LutcError
from lutc.nn import QuantLUT, patch_graph

pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e")
from torchao.quantization.pt2e import FusedMovingAvgObsFakeQuantize, HistogramObserver  # noqa: E402
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
ATEN = torch.ops.aten
ACTIVATIONS = (ATEN.gelu.default, ATEN.silu.default, ATEN.tanh.default)


class Activations(Quantizer):
    """Annotates inputs and outputs of activations."""

    def __init__(self, dtype=torch.int8, output=True, observer=HistogramObserver, dynamic=False):
        low, high = (-128, 127) if dtype == torch.int8 else (0, 255)
        self.output = output
        self.spec = QuantizationSpec(
            dtype=dtype, quant_min=low, quant_max=high, qscheme=torch.per_tensor_affine, is_dynamic=dynamic,
            observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),
        )  # fmt: skip

    def annotate(self, graph_module):
        for node in graph_module.graph.nodes:
            if node.target in ACTIVATIONS:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: self.spec},
                    output_qspec=self.spec if self.output else None,
                    _annotated=True,
                )
        return graph_module

    def validate(self, model):
        pass


X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def exported(activation=None):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), activation or nn.GELU(), nn.Linear(16, 8), nn.SiLU()).eval()
    return torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()


def converted(quantizer, activation=None):
    prepared = pt2e.prepare_pt2e(exported(activation), quantizer)
    prepared(3 * X)
    return pt2e.convert_pt2e(prepared)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("output", [True, False])
def test_codes_to_codes_with_the_graph_s_own_scales(dtype, output):
    graph = converted(Activations(dtype, output))
    with torch.no_grad():
        exact = graph(X)
    told = {n.name: n.args[0].args[1:3] for n in graph.graph.nodes if n.target in ACTIVATIONS}
    report = patch_graph(graph, entries=32)
    assert [(one.path, one.what) for one in report.replaced] == [("gelu", "gelu"), ("silu", "silu")]
    assert not any(node.target in ACTIVATIONS for node in graph.graph.nodes)
    for name, (scale, zero_point) in told.items():
        table = graph.get_submodule(f"lutc_{name}")
        assert isinstance(table, QuantLUT) and (table.scale, table.zero_point) == (scale, zero_point)
        assert (table.out is not None) == output
        # every code against the exact function, in float64
        codes = torch.arange(256, dtype=torch.int16).sub(128 if dtype == torch.int8 else 0).to(dtype)
        got = table(codes).double()
        if output:
            got = (got - (table.out.zero_point + (0 if dtype == torch.int8 else 128))) * table.out.scale
        with torch.no_grad():
            wanted = torch.from_numpy(functions.get(name)(((codes.double() - zero_point) * scale).numpy()))
        if output:
            low, high = ((e - table.out.zero_point) * table.out.scale for e in (-128, 127))
            wanted = wanted.clamp(low, high)
        assert (got - wanted).abs().max() < 0.03 + (0.51 * table.out.scale if output else 0)
    with torch.no_grad():
        assert (graph(X) - exact).norm() < 0.05 * exact.norm()
        assert graph(X[:3]).shape == (3, 8)


def test_shipped_tables_and_what_is_left():
    graph = converted(Activations())
    report = patch_graph(graph, ["gelu_16", "mish_fplut"])
    assert [one.what for one in report.replaced] == ["gelu"]
    assert [what for what, _ in report.unused] == ["mish"]
    assert [(one.what, one.why) for one in report.left] == [("silu", "no table of silu was given")]


def test_quantisation_aware_training():
    prepared = pt2e.prepare_qat_pt2e(exported(), Activations(observer=FusedMovingAvgObsFakeQuantize))
    optimiser = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(3):
        prepared(X).square().mean().backward()
        optimiser.step()
    graph = pt2e.convert_pt2e(prepared)
    with torch.no_grad():
        exact = graph(X)
        assert len(patch_graph(graph, entries=32).replaced) == 2
        assert (graph(X) - exact).norm() < 0.05 * exact.norm()


def test_only_the_function_that_it_is():
    graph = converted(Activations(), nn.GELU(approximate="tanh"))
    assert [one.what for one in patch_graph(graph).replaced] == ["gelu_tanh", "silu"]


def test_what_has_no_place():
    with pytest.raises(LutcError, match="not dequantised from codes"):
        patch_graph(exported())
    with pytest.raises(LutcError, match="takes the GraphModule"):
        patch_graph(nn.GELU())


def test_scales_that_the_graph_finds_take_float_tables():
    from torchao.quantization.pt2e.observer import PlaceholderObserver

    def dynamic(**given):
        return PlaceholderObserver.with_args(dtype=torch.int8, is_dynamic=True, quant_min=-128, quant_max=127, **given)

    quantizer = Activations(output=False, dynamic=True)
    quantizer.spec = QuantizationSpec(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine, is_dynamic=True,
        observer_or_fake_quant_ctr=dynamic(),
    )  # fmt: skip
    graph = converted(quantizer)
    with torch.no_grad():
        report = patch_graph(graph)
        assert [(one.what, one.by) for one in report.replaced] == [("gelu", "gelu"), ("silu", "silu")]
        assert not any(node.target in ACTIVATIONS for node in graph.graph.nodes) and not report.unused
        for x in (X, 5 * X):
            again = converted(quantizer)(x)
            assert 0 < (graph(x) - again).norm() < 1e-3 * again.norm()
    report = patch_graph(converted(quantizer), ["gelu_fplut", "silu_8"])
    assert [one.what for one in report.replaced] == ["gelu"]
    assert [one.why for one in report.left] == [
        "its scale is found while the graph runs: give a float table, as silu_fplut"
    ]
