"""Local functions of an ONNX model: what each module of tables traced to, between the marks of `lutc.nn.onnx_nodes`,
becomes the body of a function of domain `lutc`, and the graph calls it.

Constants of several elements, the tables, are inputs of a function, so that modules of one shape share it; single
numbers, axes and shapes stand in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lutc.nn.onnx_nodes import BEGIN, DOMAIN, END

if TYPE_CHECKING:
    import onnx_ir as ir

_FEW = 4  # axes and shapes, which operators want as constants


def gather_functions(model: ir.Model) -> None:
    """Replace the marked parts of the model's graph by calls, in place."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    known: dict[str, ir.Function] = {}
    opset = graph.opset_imports[""]
    for end in [node for node in graph if _is(node, END)]:
        result = _first_input(end)
        part = _part(graph, result)
        if part and not any(_holds_graph(node) for node in part):
            function, inputs = _function(part, result, end.attributes["name"].as_string(), known, opset)
            if function.identifier() not in model.functions:
                model.functions[function.identifier()] = function
            call = ir.Node(DOMAIN, function.name, inputs, num_outputs=1)
            graph.insert_before(end, call)
            result = call.outputs[0]
        _stand_in(graph, end.outputs[0], result)
        graph.remove(end, safe=True)
    RemoveUnusedNodesPass()(model)
    for begin in [node for node in graph if _is(node, BEGIN)]:
        _stand_in(graph, begin.outputs[0], _first_input(begin))
        graph.remove(begin, safe=True)
    if known:
        graph.opset_imports[DOMAIN] = 1
    else:
        graph.opset_imports.pop(DOMAIN, None)


def _first_input(node: ir.Node) -> ir.Value:
    (value,) = node.inputs
    assert value is not None  # a mark has one
    return value


def _is(node: ir.Node | None, kind: str) -> bool:
    return node is not None and node.domain == DOMAIN and node.op_type == kind


def _holds_graph(node: ir.Node) -> bool:
    import onnx_ir as ir

    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _stand_in(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """`new` in all places of `old`; an output of the graph keeps its name."""
    import onnx_ir as ir

    new.shape, new.type = old.shape or new.shape, old.type or new.type
    if any(output is old for output in graph.outputs):
        new.name, old.name = old.name, None
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _part(graph: ir.Graph, result: ir.Value) -> list[ir.Node]:
    """The nodes that make `result` of what begins it, and of constants, in the graph's order."""
    found: set[ir.Node] = set()
    open_ends = [result]
    while open_ends:
        node = open_ends.pop().producer()
        if node is None or node in found or node.domain == DOMAIN:
            continue
        found.add(node)
        open_ends += [value for value in node.inputs if value is not None]
    return [node for node in graph if node in found]


def _function(
    part: Iterable[ir.Node], result: ir.Value, name: str, known: dict[str, ir.Function], opset: int
) -> tuple[ir.Function, list[ir.Value]]:
    """A function of the part, an earlier one where its body is the same, and what it is called with."""
    import onnx_ir as ir

    given: dict[ir.Value, ir.Value] = {}  # values around the part -> the body's
    inside: dict[ir.Value, ir.Value] = {}
    nodes: list[ir.Node] = []
    written: list[object] = [name]

    def of(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in inside:
            return None if value is None else inside[value]
        constant, source = value.const_value, value.producer()
        if source is None and constant is not None and _stands_inside(constant):
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", constant)], num_outputs=1)
            written.append((str(constant.dtype), tuple(constant.shape), constant.tobytes()))
            inside[value] = _named(node.outputs[0], f"constant_{len(inside)}")
            nodes.append(node)
            return inside[value]
        outer = _first_input(source) if source is not None and _is(source, BEGIN) else value
        if outer not in given:
            given[outer] = ir.Value(name=f"input_{len(given)}")
        inside[value] = given[outer]
        return inside[value]

    for node in part:
        taken = [of(value) for value in node.inputs]
        copy = ir.Node(node.domain, node.op_type, taken, node.attributes.values(), num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            inside[old] = _named(new, f"value_{len(inside)}")
        nodes.append(copy)
        written.append((node.op_type, [value and value.name for value in taken], str(sorted(node.attributes.items()))))
    written.append(inside[result].name)
    text = repr(written)
    if text not in known:
        again = sum(function.name.split("_")[0] == name for function in known.values())
        body = ir.Graph(list(given.values()), [inside[result]], nodes=nodes, opset_imports={"": opset})
        known[text] = ir.Function(DOMAIN, f"{name}_{again + 1}" if again else name, graph=body, attributes=[])
    return known[text], list(given)


def _stands_inside(constant: ir.TensorProtocol) -> bool:
    import onnx_ir as ir

    return constant.size == 1 or (constant.size <= _FEW and constant.dtype == ir.DataType.INT64)


def _named(value: ir.Value, name: str) -> ir.Value:
    value.name = name
    return value
