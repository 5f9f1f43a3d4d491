"""Models with tables as ONNX: standard operators alone, so that every runtime can run them, and checked against torch.

Every module of `lutc.nn` traces to such operators while `torch.onnx.export(..., dynamo=True)` runs
(`lutc.nn.portable`); `export` also makes a local function of each, drops what the graph does not use, lets onnx check
it, and compares what onnxruntime gives with torch, output by output.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.nn import FakeQuantize, QuantLUT
from lutc.nn.fake_quant import positive_number
from lutc.nn.onnx_functions import gather_functions
from lutc.nn.onnx_nodes import marks
from lutc.nn.portable import present_scales

OPSETS = range(18, 22)


@dataclass(frozen=True)
class Comparison:
    """One output of the ONNX model in onnxruntime beside torch's: values, how many are not the same (NaN equals NaN),
    the largest difference.
    """

    name: str
    values: int
    different: int
    largest: float


def export(
    model: torch.nn.Module,
    args: Sequence,
    path: str | os.PathLike,
    *,
    kwargs: Mapping | None = None,
    opset: int = 20,
    dynamic_shapes: Any | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> list[Comparison]:
    """Write `model`, in eval mode, as an ONNX file, and compare it in onnxruntime with torch on `args`.

    args, kwargs: as the model is called. Scales that are learned or observed are exported as they are now, a dynamic
    one is computed in the graph. opset: 18 to 21. dynamic_shapes: as `torch.export` takes them: dimensions that may
    vary. Raises LutcError where onnx or onnxruntime are missing, a module has no ONNX form, or the model does not load
    in onnxruntime; the file is then not written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise LutcError(f"ONNX needs {package}, which is not installed: pip install 'lutc[onnx]'")
    if opset not in OPSETS:
        raise LutcError(f"the opset is 18 to 21; given {opset}")
    path = Path(path)
    if not path.resolve().parent.is_dir():
        raise LutcError(f"cannot write {path}: no such folder; give a path in an existing, writable folder")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with present_scales(_scales_of(model)), marks():
            program = _traced(model, tuple(args), kwargs, opset, dynamic_shapes, input_names, output_names)
        gather_functions(program.model)
        _drop_unused(program)
        with torch.no_grad():
            wanted = model(*args, **(kwargs or {}))
    finally:
        for module in training:
            module.training = True
    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".lutc-") as folder:
        written = Path(folder) / path.name
        program.save(str(written))
        _checked(written)
        found = compare(written, (*args, *(kwargs or {}).values()), wanted)
        for file in Path(folder).iterdir():  # a large model's weights lie in a second file
            os.replace(file, path.resolve().parent / file.name)
    return found


def _scales_of(model: torch.nn.Module) -> list[tuple[torch.nn.Module, Any]]:
    """Modules whose scale is learned or observed, and its value now, of channels a tuple."""
    found: list[tuple[torch.nn.Module, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantize) and module.kind in ("learned", "observed"):
            if module.scale is None:
                raise LutcError(
                    f"the {module.kind} scale of {name or 'this FakeQuantize'} has seen no batch yet; run one in "
                    "training mode, or load a checkpoint"
                )
            found.append((module, module.scale))
        elif isinstance(module, QuantLUT) and isinstance(module.scale, torch.Tensor):
            number = positive_number("scale", module.scale) if module.axis is None else tuple(module.scale.tolist())
            found.append((module, number))
    return found


def _traced(model, args, kwargs, opset, dynamic_shapes, input_names, output_names):
    try:
        return torch.onnx.export(
            model,
            args,
            kwargs=None if kwargs is None else dict(kwargs),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes,
            input_names=input_names,
            output_names=output_names,
            verbose=False,
        )
    except Exception as error:  # torch wraps what went wrong in errors of many kinds
        cause = error
        while not isinstance(cause, LutcError) and cause.__cause__ is not None:
            cause = cause.__cause__
        text = str(cause).strip().splitlines() or [type(cause).__name__]
        raise LutcError(f"{type(model).__name__} cannot be exported to ONNX: {text[0]}") from error


def _drop_unused(program) -> None:
    """Plans and tables that modules hold for other dtypes are no part of the graph."""
    graph = program.model.graph
    outputs = set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in outputs:
            del graph.initializers[name]


def _checked(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # onnx raises errors of its own and of protobuf
        raise LutcError(f"onnx's checker refuses the model: {str(error).strip().splitlines()[0]}") from error


def compare(path: str | os.PathLike, args: Sequence[torch.Tensor], wanted: Any) -> list[Comparison]:
    """Run an ONNX file in onnxruntime on the CPU; each of its outputs beside torch's. args: tensors in the order of the
    inputs; None among them is left out.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # errors of its own, all different
        raise LutcError(f"onnxruntime does not load the model: {str(error).strip().splitlines()[0]}") from error
    given = [tensor for tensor in flat_tensors(args) if isinstance(tensor, torch.Tensor)]
    names = [value.name for value in session.get_inputs()]
    if len(given) != len(names):
        raise LutcError(f"the ONNX model takes {', '.join(names)}; given {len(given)} tensors")
    outputs = session.run(None, {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, given)})
    torch_outputs = [tensor for tensor in flat_tensors(wanted) if isinstance(tensor, torch.Tensor)]
    return [
        compared(value.name, output, tensor.detach().cpu().numpy())
        for value, output, tensor in zip(session.get_outputs(), outputs, torch_outputs)
    ]


def flat_tensors(value: Any) -> list:
    """The leaves of nested arguments or outputs."""
    return torch.utils._pytree.tree_leaves(value)


def compared(name: str, got: np.ndarray, want: np.ndarray) -> Comparison:
    """Two arrays of one shape and dtype beside each other. LutcError where those differ."""
    if got.shape != want.shape or got.dtype != want.dtype:
        raise LutcError(f"output {name} is {got.dtype} {got.shape} exported and {want.dtype} {want.shape} in torch")
    if not want.size:
        return Comparison(name, 0, 0, 0.0)
    got, want = (np.asarray(v, np.float64) for v in (got, want))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        largest = float(np.where(same, 0.0, np.abs(got - want)).max())
    return Comparison(name, int(want.size), int((~same).sum()), largest)
