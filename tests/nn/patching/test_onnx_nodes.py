"""ONNX's node tests of activations, softmax and norms, answered by floating-point tables within ONNX's tolerance."""

import warnings

import numpy as np
import pytest
import torch

import lutc
from lutc.fplut import compile_fplut
from lutc.table.library import names

pytest.importorskip("onnx")
from tests.helpers import onnx_nodes  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the reference's own arithmetic
    NODES = {node.name: node for node in onnx_nodes.nodes()}
SHIPPED = [name for name in names() if name.endswith("_fplut")]


@pytest.fixture(scope="module")
def finer():
    """Tables for what 259 values of the whole axis do not reach: two tails, and a norm whose bias takes off all but a
    3000th of its value.
    """
    return {
        "gelu_tanh_2": {"activation": compile_fplut("gelu_tanh", formats=("fp32",), prologue="abs", proof=False)},
        "mish": {"activation": compile_fplut("mish", formats=("fp32",), pieces=64, proof=False)},
        "layer_normalization_4d_axis1": {"norm": compile_fplut("rsqrt", formats=("fp32",), pieces=64, proof=False)},
    }


def test_there_are_as_many_as_onnx_has():
    assert len(NODES) >= 115


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_answered(name, finer):
    node = NODES[name]
    model, given = onnx_nodes.module(node)
    want = torch.from_numpy(np.asarray(node.output, np.float64))
    with torch.no_grad():
        torch.testing.assert_close(model(*given).double(), want, rtol=1e-3, atol=1e-5)  # the module is the node
        report = lutc.patch(model, **finer.get(name, _request(node.op)))
        assert report.replaced and not report.left
        torch.testing.assert_close(model(*given).double(), want, rtol=1e-3, atol=1e-7)
        lutc.unpatch(model)
        torch.testing.assert_close(model(*given).double(), want, rtol=1e-3, atol=1e-5)


def _request(op: str) -> dict:
    """The default tables, but of activations only those that begin alike: loading all takes longer than the test."""
    if op.endswith("Normalization"):
        return {"norm": "rsqrt_fplut"}
    if op.endswith("Softmax"):
        return {"softmax": "exp_fplut"}
    begins = {"LeakyRelu": "leaky", "PRelu": "relu", "HardSwish": "hards", "SwiGLU": "si"}.get(op, op[:3].lower())
    return {"activation": [*(one for one in SHIPPED if one.startswith(begins)), "auto-fplut"]}
