"""Tables in the graphs of PyTorch's own quantisation: after torchao's PT2E `convert_pt2e`, static or QAT, an activation
between its dequantise and its quantise node becomes a QuantLUT on codes, with those very scales and zero points.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from lutc.compiler.pipeline import compile
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn.lut import LUT
from lutc.nn.patching.report import Left, Replaced, Report
from lutc.nn.quant import QuantLUT
from lutc.table.library import as_table_set, load, names
from lutc.table.table_set import TableSet

_FUNCTIONS = {
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "mish": "mish",
    "softplus": "softplus",
    "elu": "elu",
    "exp": "exp",
}
_CODES = {torch.int8: (-128, 127), torch.uint8: (0, 255)}


def patch_graph(graph_module: fx.GraphModule, activation: Any = None, *, entries: int = 16) -> Report:
    """Put tables into a graph that `convert_pt2e` gave, in place.

    activation: tables over int8 codes by name, path or TableSet, one or a list; None compiles one of at most `entries`
    for every activation on its own scale and zero point (0.1 s each). An activation whose input is dequantised from
    int8 or uint8 codes of one scale takes those codes; where a quantise node of the same width follows, it gives codes
    too, rounding halves to even as that node does, else float32. Where the graph finds scale and zero point as it runs
    (dynamic quantisation) no table of one scale serves: a float table is looked up at the dequantised values, one that
    is given (`gelu_fplut`), or with None the shipped one. Left and reported: channel-wise scales, options that are no
    registered function, and functions without a table.

    Returns the report; paths are names of nodes. LutcError for what is no graph, and where nothing was replaced.
    """
    if not isinstance(graph_module, fx.GraphModule):
        raise LutcError(
            f"patch_graph takes the GraphModule of convert_pt2e; given {type(graph_module).__name__}, which lutc.patch "
            "takes"
        )
    given = {}
    for source in [] if activation is None else activation if isinstance(activation, (list, tuple)) else [activation]:
        tables = as_table_set(source)
        given[tables.function] = tables
    report, graph, asked = Report(), graph_module.graph, dict(given)
    for node in list(graph.nodes):
        function = _function(node)
        if function is None:
            continue
        if _is_dynamic(node) and activation is None and f"{function}_fplut" in names():
            given.setdefault(function, load(f"{function}_fplut"))
        why = _unfit(node, function, given, activation is None)
        if why:
            report.left.append(Left(node.name, function, why))
            continue
        if _is_dynamic(node):
            _put_float(graph_module, node, given[function])
            report.replaced.append(Replaced(node.name, function, given[function].name))
            continue
        _, scale, zero_point, _, _, dtype = node.args[0].args
        tables = given.get(function) or _compiled(function, entries, scale, zero_point, dtype)
        _put(graph_module, node, tables)
        report.replaced.append(Replaced(node.name, function, tables.name))
    report.unused = [
        (name or "?", t.name) for name, t in asked.items() if name not in {r.what for r in report.replaced}
    ]
    if not report.replaced:
        told = "; ".join(f"{one.path}: {one.why}" for one in report.left[:3])
        raise LutcError(f"nothing was replaced: {told or 'the graph calls no activation'}")
    graph.eliminate_dead_code()
    graph_module.recompile()
    return report


def _function(node: fx.Node) -> str | None:
    """Registry name of the activation that a node calls; None for other nodes."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    namespace, _, name = node.target._schema.name.partition("::")
    function = _FUNCTIONS.get(name.rstrip("_")) if namespace == "aten" else None
    if function == "gelu" and node.kwargs.get("approximate") == "tanh":
        return "gelu_tanh"
    return function


def _is(node: Any, name: str) -> bool:
    target = getattr(node, "target", None)
    return isinstance(target, torch._ops.OpOverload) and target._schema.name == f"quantized_decomposed::{name}"


def _is_dynamic(node: fx.Node) -> bool:
    """Whether the scale of the node's input is a tensor that the graph computes."""
    source: Any = node.args[0]
    return _is(source, "dequantize_per_tensor") and source.target._overloadname != "default"


def _put_float(graph_module: fx.GraphModule, node: fx.Node, tables: TableSet) -> None:
    """A float table in the place of the node alone."""
    name = f"lutc_{node.name}"
    graph_module.add_submodule(name, LUT(tables))
    with graph_module.graph.inserting_before(node):
        made = graph_module.graph.call_module(name, (node.args[0],))
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph_module.graph.erase_node(node)


def _unfit(node: fx.Node, function: str, given: Mapping[str | None, TableSet], every: bool) -> str | None:
    """Why a node keeps its function; None where a table serves."""
    source: Any = node.args[0]
    if len(node.args) > 1 or function != "gelu_tanh" and node.kwargs:
        return f"its options ({node.args[1:]}, {dict(node.kwargs)}) are not those of the registered function"
    if not _is(source, "dequantize_per_tensor"):
        return "its input is not dequantised from codes of one scale"
    if _is_dynamic(node):
        table = given.get(function)
        serves = table is not None and not table.inputs
        return None if serves else f"its scale is found while the graph runs: give a float table, as {function}_fplut"
    if source.args[5] not in _CODES:
        return f"its codes are {source.args[5]}; int8 and uint8 are served"
    if not every and function not in given:
        return f"no table of {function} was given"
    return None


def _signed(zero_point: int, dtype: torch.dtype) -> int:
    """The zero point among signed codes."""
    return zero_point - (0 if dtype == torch.int8 else 128)


def _compiled(function: str, entries: int, scale: float, zero_point: int, dtype: torch.dtype) -> TableSet:
    """A table on this scale and zero point alone, over all codes."""
    inputs = Inputs(8, scale, _signed(zero_point, dtype))
    x = inputs.x()
    return compile(function, entries, inputs=inputs, search="exact", range=(float(x[0]), float(x[-1])))


def _put(graph_module: fx.GraphModule, node: fx.Node, tables: TableSet) -> None:
    """A QuantLUT in the place of the node, and of the quantise node behind it where there is one for all."""
    source: Any = node.args[0]
    codes, scale, zero_point, _, _, dtype = source.args
    users: list[Any] = list(node.users)
    behind = [user for user in users if _is(user, "quantize_per_tensor") and user.target._overloadname == "default"]
    ends = {user.args[1:] for user in behind}
    whole = len(behind) == len(users) and len(ends) == 1
    out: dict[str, Any] = {}
    if whole:
        ((out_scale, out_zero_point, low, high, out_dtype),) = ends
        whole = out_dtype == dtype and (low, high) == _CODES[dtype]
        out = {"out_scale": out_scale, "out_zero_point": out_zero_point, "rounding": "half_even"} if whole else {}
    table = QuantLUT(tables, scale, zero_point, **out, signed=dtype == torch.int8)
    name = f"lutc_{node.name}"
    graph_module.add_submodule(name, table)
    with graph_module.graph.inserting_before(node):
        made = graph_module.graph.call_module(name, (codes,))
    for old in behind if whole else [node]:
        made.meta = dict(old.meta)
        old.replace_all_uses_with(made)
    for old in [*behind, node] if whole else [node]:
        graph_module.graph.erase_node(old)
