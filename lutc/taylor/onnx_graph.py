"""A table as an ONNX graph of standard operators: MatMul and ArgMin find the centre, Gather takes its numbers, a
batched MatMul multiplies.

Slopes stay in their storage format in the file; what an input gathers is widened, so that a runtime reads a quarter of
fp32's bytes from an int8 table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.taylor.cluster import half_norms
from lutc.taylor.integer import refuse_fallback
from lutc.taylor.table import TaylorTable

if TYPE_CHECKING:
    import onnx

OPSETS = range(18, 22)
# One ONNX file is one protobuf message.
LARGEST = 2_000_000_000

# Of kept neurons: the registry's name -> the operator.
_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "softplus": "Softplus",
    "elu": "Elu",
    "selu": "Selu",
    "mish": "Mish",
}
_WRITTEN_OUT = ("gelu", "silu")


def onnx_graph(table: TaylorTable, opset: int = 18) -> onnx.ModelProto:
    """`table` as a model from x [n, d] to y [n, o], both float32, any n; checked by onnx.

    A row with NaN gives NaN. Raises LutcError for a table with a fallback, for kept neurons of a function without a
    standard operator, for bf16, for another opset than 18 to 21, and for more than 2 GB.
    """
    import onnx
    from onnx import TensorProto, helper

    refuse_fallback(table)
    if opset not in OPSETS:
        raise LutcError(f"the opset is 18 to 21; given {opset}")
    if table.format == "bf16":
        raise LutcError("few runtimes read bf16 in ONNX; store the table as fp16 or fp32 first")
    if table.storage_bytes > LARGEST:
        raise LutcError(f"{table.storage_bytes} bytes are over the 2 GB of an ONNX file; store the table as int8")
    graph = _Graph()
    d, o = table.in_features, table.out_features
    centres = table.centres.float()
    scores = graph.node("MatMul", "x", graph.constant("centres_transposed", centres.T))
    distances = graph.node("Sub", graph.constant("half_norms", half_norms(centres)), scores)
    owner = graph.node("ArgMin", distances, axis=1, keepdims=0)

    def gathered(name: str, tensor: Tensor, cast: bool = True) -> str:
        taken = graph.node("Gather", graph.constant(name, tensor), owner, axis=0)
        return taken if tensor.dtype == torch.float32 or not cast else graph.node("Cast", taken, to=TensorProto.FLOAT)

    z = graph.node("Sub", "x", gathered("centres", table.centres))
    last = graph.constant("last", torch.tensor([2]))

    def times(matrices: str, vectors: str) -> str:
        """[n, o, p] times [n, p]."""
        return graph.node("Squeeze", graph.node("MatMul", matrices, graph.node("Unsqueeze", vectors, last)), last)

    if table.projections is not None:
        z = times(gathered("projections", table.projections), z)
    parts = [z]
    if table.order == 2:
        parts.append(graph.node("Mul", graph.node("Mul", z, z), graph.constant("half", torch.tensor(0.5))))
    if table.weights is not None and table.offsets is not None and table.activation is not None:
        weights, offsets = table.weights.float(), table.offsets.float()
        if table.chosen is None:
            products = graph.node("MatMul", "x", graph.constant("weights_transposed", weights.T))
            t = graph.node("Add", products, graph.constant("offsets", offsets))
        else:
            own = gathered("chosen", table.chosen.long(), cast=False)
            rows = graph.node("Gather", graph.constant("weights", weights), own, axis=0)
            t = graph.node(
                "Add", times(rows, "x"), graph.node("Gather", graph.constant("offsets", offsets), own, axis=0)
            )
        parts.append(_activated(graph, t, table.activation))
    if len(parts) > 1:
        z = graph.node("Concat", *parts, axis=1)
    if table.columns is not None:
        z = graph.node("Mul", z, graph.constant("columns", table.columns))
    products = times(gathered("slopes", table.slopes), z)
    if table.scales is not None:
        products = graph.node("Mul", products, gathered("scales", table.scales))
    graph.node("Add", products, gathered("values", table.values), output="y")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "taylor",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", d])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", o])],
            graph.constants,
        ),
        producer_name="lutc",
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []

    def constant(self, name: str, tensor: Tensor) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(tensor.numpy()), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output


def _activated(graph: _Graph, t: str, activation: str) -> str:
    if activation not in _ACTIVATIONS and activation not in _WRITTEN_OUT:
        raise LutcError(
            f"kept neurons of {activation} have no standard operator of ONNX; exported are "
            f"{', '.join([*_WRITTEN_OUT, *_ACTIVATIONS])}"
        )
    if activation == "silu":
        return graph.node("Mul", t, graph.node("Sigmoid", t))
    if activation == "gelu":  # its own operator only comes with opset 20
        scaled = graph.node("Mul", t, graph.constant("root_half", torch.tensor(0.5**0.5)))
        grown = graph.node("Add", graph.node("Erf", scaled), graph.constant("one", torch.tensor(1.0)))
        return graph.node("Mul", graph.node("Mul", t, graph.constant("a_half", torch.tensor(0.5))), grown)
    return graph.node(_ACTIVATIONS[activation], t)
