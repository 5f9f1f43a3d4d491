"""A table as a model of LiteRT (TensorFlow Lite): int8 codes in, output codes out, by operators that every build of the
runtime has, and run in it on all codes before the file is written.

LiteRT's quantised activations (TANH, LOGISTIC, GELU, HARD_SWISH, EXP, ...) compute their 256 answers from the exact
function when a model is loaded and take no table of others. So the table stands in the graph: CAST of the code to
int32, ADD of 128, GATHER from 256 constants.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.formats.codes import Inputs
from lutc.hardware.export.units import Unit, units
from lutc.table.table_set import TableSet

IDENTIFIER = b"TFL3"


def export(tables: TableSet, key: str, out: Inputs | None, path: str | os.PathLike) -> int:
    """Write the table `key` as a model of codes of any number; gives how many codes were compared, none of which
    differs. out: the output codes, by default those that the file names.

    LutcError where LiteRT is missing, for inputs that are no 8-bit codes, without output codes, or where an answer
    differs; nothing is written then.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise LutcError("LiteRT needs ai-edge-litert, which is not installed: pip install 'lutc[litert]'")
    (unit,) = units(tables, [key], out)
    if unit.out is None:
        raise LutcError("a model of LiteRT gives output codes; give `out_scale`")
    if unit.inputs.bits != 8 or unit.out.bits not in (8, 16):
        raise LutcError(
            f"a model of LiteRT takes 8-bit codes and gives codes of 8 or 16 bits; '{key}' has {unit.inputs.bits} and "
            f"{unit.out.bits} (int16 inputs: --format lut513)"
        )
    model = _model(tables.name, unit)
    wrong = int((run(model, unit.inputs.codes().astype(np.int8)) != unit.codes).sum())
    if wrong:
        raise LutcError(f"LiteRT answers {wrong} of 256 codes otherwise than the integer model")
    atomic_write(path, model)
    return 256


def run(model: bytes, codes: np.ndarray) -> np.ndarray:
    """What LiteRT makes of codes (n,) int8: output codes, int64."""
    from ai_edge_litert.interpreter import Interpreter  # an optional package

    interpreter = Interpreter(model_content=model)
    given, answer = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(given["index"], codes.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], codes)
    interpreter.invoke()
    return interpreter.get_tensor(answer["index"]).astype(np.int64)


def _model(name: str, unit: Unit) -> bytes:
    import flatbuffers  # both come with LiteRT
    from ai_edge_litert import schema_py_generated as schema

    assert unit.out is not None and unit.codes is not None
    kinds = schema.TensorType
    wide = kinds.INT8 if unit.out.bits == 8 else kinds.INT16
    answers = unit.codes.astype("<i1" if unit.out.bits == 8 else "<i2")
    data = [b"", np.array(128, "<i4").tobytes(), answers.tobytes()]
    codes = ([256], [-1])
    tensors = [
        _tensor(schema, "codes", kinds.INT8, *codes, quantised=unit.inputs),
        _tensor(schema, "integers", kinds.INT32, *codes),
        _tensor(schema, "half", kinds.INT32, [], buffer=1),
        _tensor(schema, "index", kinds.INT32, *codes),
        _tensor(schema, "answers", wide, [256], buffer=2, quantised=unit.out),
        _tensor(schema, "answer", wide, *codes, quantised=unit.out),
    ]
    operators = schema.BuiltinOperator
    cast, add, gather = schema.CastOptionsT(), schema.AddOptionsT(), schema.GatherOptionsT()
    cast.inDataType, cast.outDataType = kinds.INT8, kinds.INT32
    options = schema.BuiltinOptions
    steps = [
        (operators.CAST, [0], [1], options.CastOptions, cast),
        (operators.ADD, [1, 2], [3], options.AddOptions, add),
        (operators.GATHER, [4, 3], [5], options.GatherOptions, gather),
    ]
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.name, graph.tensors, graph.inputs, graph.outputs, graph.operators = name, tensors, [0], [5], []
    model.version, model.description, model.subgraphs = 3, f"lutc: {name}, key {unit.key}", [graph]
    model.buffers, model.operatorCodes = [], []
    for part in data:
        buffer = schema.BufferT()
        buffer.data = list(part) or None
        model.buffers.append(buffer)
    for i, (code, inputs, outputs, kind, chosen) in enumerate(steps):
        operator, named = schema.OperatorT(), schema.OperatorCodeT()
        operator.opcodeIndex, operator.inputs, operator.outputs = i, inputs, outputs
        operator.builtinOptionsType, operator.builtinOptions = kind, chosen
        graph.operators.append(operator)
        named.builtinCode, named.deprecatedBuiltinCode, named.version = code, code, _VERSIONS.get(i, 1)
        model.operatorCodes.append(named)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


_VERSIONS: dict[int, int] = {2: 2}  # GATHER of int8


def _tensor(
    schema: Any,
    name: str,
    kind: int,
    shape: list[int],
    signature: list[int] | None = None,
    *,
    buffer: int = 0,
    quantised: Inputs | None = None,
) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.shapeSignature = name, kind, shape, signature
    tensor.buffer = buffer
    if quantised is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [float(quantised.scale)]
        tensor.quantization.zeroPoint = [int(quantised.zero_point)]
    return tensor
