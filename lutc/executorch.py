"""Models with tables for ExecuTorch: a .pte file of torch's own operators, run by ExecuTorch's runtime and compared
with torch, output by output.

`standard_program` is the pass behind it, without ExecuTorch: a `torch.export` program in which tables are gathers and
comparisons of ATen, no operator of lutc's, for whatever lowers such programs.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.nn.portable import standard_operators
from lutc.onnx import Comparison, compared, flat_tensors


def standard_program(
    model: torch.nn.Module,
    args: Sequence,
    *,
    kwargs: Mapping | None = None,
    dynamic_shapes: Any | None = None,
) -> torch.export.ExportedProgram:
    """The model, in eval mode, as a program of ATen operators. args, kwargs: as the model is called. dynamic_shapes: as
    `torch.export` takes them. LutcError where a module has no such form.
    """
    named = None if kwargs is None else dict(kwargs)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), standard_operators():
            return torch.export.export(model, tuple(args), named, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as error:  # torch wraps what went wrong in errors of many kinds
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise LutcError(f"{type(model).__name__} cannot be exported: {text[0]}") from error
    finally:
        for module in training:
            module.training = True


def export(
    model: torch.nn.Module,
    args: Sequence,
    path: str | os.PathLike,
    *,
    kwargs: Mapping | None = None,
    dynamic_shapes: Any | None = None,
) -> list[Comparison]:
    """Write `model` as a .pte file of portable kernels, run it in ExecuTorch on `args`, and compare it with torch.

    LutcError where ExecuTorch is missing, cannot lower the model or cannot run it; the file is then not written.
    """
    if importlib.util.find_spec("executorch") is None:
        raise LutcError("ExecuTorch is not installed: pip install executorch")
    from executorch.exir import EdgeCompileConfig, to_edge  # an optional package

    program = standard_program(model, args, kwargs=kwargs, dynamic_shapes=dynamic_shapes)
    try:
        # tables look up in float64 and int64, which the check of the dialect does not know everywhere
        lowered = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
        buffer = bytes(lowered.buffer)
    except Exception as error:  # of many kinds
        raise LutcError(f"ExecuTorch cannot lower {type(model).__name__}: {_first_line(error)}") from error
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            wanted = model(*args, **(kwargs or {}))
    finally:
        for module in training:
            module.training = True
    found = compare(buffer, (*args, *(kwargs or {}).values()), wanted)
    atomic_write(path, buffer)
    return found


def compare(buffer: bytes, args: Sequence, wanted: Any) -> list[Comparison]:
    """Run a program in ExecuTorch; each of its outputs beside torch's."""
    from executorch.runtime import Runtime  # an optional package

    with tempfile.TemporaryDirectory(prefix="lutc-") as folder:
        file = Path(folder) / "model.pte"
        file.write_bytes(buffer)
        try:
            method = Runtime.get().load_program(str(file)).load_method("forward")
            outputs = method.execute([tensor for tensor in flat_tensors(args) if isinstance(tensor, torch.Tensor)])
            outputs = [output.clone() for output in outputs]  # they live in the method's memory
        except Exception as error:  # of many kinds
            raise LutcError(f"ExecuTorch does not run the model: {_first_line(error)}") from error
    tensors = [tensor for tensor in flat_tensors(wanted) if isinstance(tensor, torch.Tensor)]
    return [
        compared(f"output {i}", output.numpy(), tensor.detach().cpu().numpy())
        for i, (output, tensor) in enumerate(zip(outputs, tensors))
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
