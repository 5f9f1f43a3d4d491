"""Writing a table for a small board (C) or for other runtimes (ONNX)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.taylor.c_source import c_files
from lutc.taylor.onnx_graph import onnx_graph
from lutc.taylor.table import TaylorTable

# Of what onnxruntime gives, relative to the largest output: sums of floats in another order.
TOLERANCE = 1e-4
_ROWS = 256


def export_c(table: TaylorTable, folder: str | os.PathLike, name: str, *, blob: bool = False) -> list[Path]:
    """Write `table` as `lutc.taylor.c_source.c_files` gives it into `folder`, made if need be; returns the paths."""
    folder = Path(folder)
    files = c_files(table, name, blob=blob)
    _make(folder)
    for file, content in files.items():
        atomic_write(folder / file, content)
    return [folder / file for file in files]


def export_onnx(table: TaylorTable, path: str | os.PathLike, opset: int = 18) -> tuple[Path, float]:
    """Write `table` as `lutc.taylor.onnx_graph.onnx_graph` gives it, after comparing it in onnxruntime with the table
    at inputs about its centres; returns the path and the largest difference, relative to the largest output.

    Raises LutcError where packages are missing or the two differ by more than TOLERANCE; nothing is written then.
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise LutcError(f"ONNX needs {package}, which is not installed: pip install 'lutc[onnx]'")
    import onnxruntime

    payload = onnx_graph(table, opset).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    x = probes(table, _ROWS)
    wanted = table(x)
    given = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    largest = float((given - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not largest <= TOLERANCE:
        raise LutcError(
            f"onnxruntime differs from the table by {largest:.3g} of the largest output; nothing is written"
        )
    path = Path(path)
    _make(path.parent)
    atomic_write(path, payload)
    return path, largest


def probes(table: TaylorTable, count: int, seed: int = 0) -> torch.Tensor:
    """Inputs [count, d] (float32) about the centres, as far from them as these lie from each other."""
    generator = torch.Generator().manual_seed(seed)
    centres = table.centres.float()
    chosen = torch.randint(table.k, (count,), generator=generator)
    spread = float(centres.std()) if table.centres.numel() > 1 else 1.0
    return centres[chosen] + 0.1 * (spread or 1.0) * torch.randn(count, table.in_features, generator=generator)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LutcError(f"cannot make {folder}: {error.strerror}; give a folder that can be written") from error
