"""What other runtimes give for exported tables, as docs/vendors.md has it.

python benchmarks/vendor_figures.py litert        every shipped int8 table at every scale: pip install 'lutc[litert]'
python benchmarks/vendor_figures.py executorch    kinds of modules beside torch: pip install executorch
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from lutc import nn
from lutc.formats.codes import Outputs
from lutc.table.library import load, names


def litert() -> None:
    from lutc.litert import export

    tables = [load(name) for name in names()]
    tables = [held for held in tables if held.inputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        count = sum(export(held, key, Outputs(8, 2.0**-4, 3, "half_away"), path) for held in tables for key in held)
    print(f"LiteRT: {len(tables)} tables, {count} codes, 0 wrong")


def cases():
    """(what, module, input)"""
    half = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)) * 4
    codes = torch.arange(-128, 128, dtype=torch.int8)
    rows = torch.randn(50, 128, generator=torch.Generator().manual_seed(1)) * 5
    yield "QuantLUT gelu_8, codes", nn.QuantLUT("gelu_8", scale=2**-4, out_scale=2**-4), codes
    yield "IntegerSoftmax", nn.IntegerSoftmax(), codes.repeat(4).reshape(8, 128)
    yield "IntegerRMSNorm", nn.IntegerRMSNorm(torch.ones(128), scale=2**-4, out_scale=2**-5), codes.reshape(2, 128)
    for name in ("gelu_8", "silu_fplut", "exp_fplut"):
        yield f"LUT {name}, fp16", nn.LUT(name), half
    for name in ("gelu_8", "silu_fplut", "exp_fplut"):
        yield f"LUT {name}, fp32", nn.LUT(name), x
    yield "LUTSoftmax, fp32", nn.LUTSoftmax("exp_fplut", "reciprocal_fplut"), rows
    yield "LUTRMSNorm, fp32", nn.LUTRMSNorm(128), rows


def executorch() -> None:
    from lutc.executorch import export

    print("| module | values | not the same bits | largest difference |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what, module, x in cases():
            (found,) = export(module, (x,), Path(folder) / "m.pte")
            print(f"| {what} | {found.values} | {found.different} | {found.largest:.2g} |", flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    parts = sys.argv[1:] or ["litert", "executorch"]
    for part in parts:
        {"litert": litert, "executorch": executorch}[part]()
