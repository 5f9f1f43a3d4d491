"""A Taylor table in C beside the exact head in C: bytes, time of a call, and how far it is from the module.

    python benchmarks/taylor_vgg.py --fonts /tmp/fonts --work /tmp/vgg
    python benchmarks/taylor_c.py --work /tmp/vgg [--k 120] [--flags=-O3 --flags="-O3 -march=native"]

The exact head is written here with the same sixteen lanes and compiled by the same gcc; in int8 its weights have a
scale per row and its activations stay float. Medians of calls on test images, one after the other; cold: 64 MB of other
memory are written before each call.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import taylor_vgg
import torch
from torch import Tensor, nn

from lutc import taylor
from lutc.taylor.exporting import export_c
from lutc.taylor.integer import IntegerTaylorMLP
from lutc.taylor.module import TaylorMLP

ROWS = 200
_MAIN = """
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "{name}.h"
static double seconds(void) {{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}}
static int order(const void *a, const void *b) {{
    const double *left = a, *right = b;
    return (*left > *right) - (*left < *right);
}}
int main(int argc, char **argv) {{
    static float x[{rows} * {upper}_IN], y[{rows} * {upper}_OUT];
    static double times[{rows}];
    FILE *file = fopen(argv[1], "rb");
    long size = (fseek(file, 0, SEEK_END), ftell(file));
    char *blob = aligned_alloc(64, ((size_t)size + 63) / 64 * 64), *other = malloc(64u << 20);
    int i, cold;
    rewind(file);
    if (argc < 3 || fread(blob, 1, (size_t)size, file) != (size_t)size) return 1;
    if ({name}_load(blob, (size_t)size) != 0) return 3;
    if (fread(x, sizeof(float) * {upper}_IN, {rows}, stdin) != {rows}) return 2;
    for (cold = 0; cold < 2; ++cold) {{
        for (i = 0; i < {rows}; ++i) {{
            double start;
            if (cold) memset(other, i, 64u << 20);
            start = seconds();
            {name}_run(x + i * {upper}_IN, y + i * {upper}_OUT);
            times[i] = seconds() - start;
        }}
        qsort(times, {rows}, sizeof *times, order);
        fprintf(stderr, "%.9g ", times[{rows} / 2]);
    }}
    fwrite(y, sizeof y, 1, stdout);
    return other[argc] == 77;
}}
"""
_EXACT = """
#include <stdint.h>
#include <stddef.h>
#include "exact.h"
static const {kind} *weights[3];
static const float *scales[3], *biases[3];
static const size_t widths[4] = {{{widths}}};
int exact_load(const void *blob, size_t size) {{
    const char *at = blob;
    int layer;
    for (layer = 0; layer < 3; ++layer) {{
        weights[layer] = (const void *)at;
        at += sizeof({kind}) * widths[layer] * widths[layer + 1];
        scales[layer] = (const void *)at;
        at += sizeof(float) * widths[layer + 1];
        biases[layer] = (const void *)at;
        at += sizeof(float) * widths[layer + 1];
    }}
    return at != (const char *)blob + size;
}}
static float dot(const {kind} *row, const float *z, size_t n) {{
    float sums[16] = {{0}};
    size_t i, lane, width;
    for (i = 0; i + 16 <= n; i += 16)
        for (lane = 0; lane < 16; ++lane) sums[lane] += (float)row[i + lane] * z[i + lane];
    for (lane = 0; lane < n % 16; ++lane) sums[lane] += (float)row[i + lane] * z[i + lane];
    for (width = 8; width > 0; width /= 2)
        for (lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    return sums[0];
}}
void exact_run(const float *x, float *y) {{
    static float held[2][{widest}];
    int layer;
    size_t o;
    for (layer = 0; layer < 3; ++layer) {{
        float *out = layer == 2 ? y : held[layer];
        for (o = 0; o < widths[layer + 1]; ++o) {{
            float t = dot(weights[layer] + o * widths[layer], x, widths[layer]) * scales[layer][o] + biases[layer][o];
            out[o] = layer < 2 && t < 0 ? 0 : t;
        }}
        x = out;
    }}
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of taylor_vgg.py, with its head and table")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--k", type=int, default=120)
    parser.add_argument("--flags", action="append", help="of gcc, once or more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = taylor_vgg.trained(torch.empty(0), 0, arguments.work / "head.pt")
    table = taylor.load(arguments.work / f"head-{arguments.k}")
    glyphs = taylor_vgg.drawn(arguments.fonts)
    x = next(taylor_vgg.images(glyphs, ROWS, taylor_vgg.TEST))[0].contiguous()
    inputs = next(taylor_vgg.images(glyphs, 60_000, taylor_vgg.FIT))[0]
    for flags in arguments.flags or ["-O3", "-O3 -march=native"]:
        print(f"gcc -std=c99 {flags}")
        for format in ("fp32", "int8"):
            with tempfile.TemporaryDirectory() as folder:
                size = write_exact(head, Path(folder), format)
                y, warm, cold = compiled(Path(folder), "exact", flags, x)
            off = float((y - head(x)).abs().max() / head(x).abs().max())
            exact = warm, cold
            print(f"  exact {format:6}{size / 1e6:9.2f} MB {row(warm, cold, exact)}  {off:.1e} from torch")
            for store in ("fp32", "fp16") if format == "fp32" else ("int8",):
                stored = table.stored(store, inputs)
                with tempfile.TemporaryDirectory() as folder:
                    size = export_c(stored, folder, "head", blob=True)[-1].stat().st_size
                    y, warm, cold = compiled(Path(folder), "head", flags, x)
                print(f"  table {store:6}{size / 1e6:9.2f} MB {row(warm, cold, exact)}  {apart(stored, x, y)}")


def row(warm: float, cold: float, exact: tuple[float, float]) -> str:
    return f"{warm * 1e6:9.1f} us {exact[0] / warm:6.0f}x   cold {cold * 1e6:9.1f} us {exact[1] / cold:6.0f}x"


@torch.inference_mode()
def apart(table: taylor.TaylorTable, x: Tensor, y: Tensor) -> str:
    """How far the C's outputs are from the module's."""
    if table.format == "int8":
        wanted = IntegerTaylorMLP(table)(x)
        same = int((y.view(torch.int32) == wanted.view(torch.int32)).sum())
        off = float((y - TaylorMLP(table)(x)).abs().max() / y.abs().max())
        return f"{same} of {y.numel()} outputs the integer module's, {off:.1e} from the float module"
    return f"{float((y - TaylorMLP(table)(x)).abs().max() / y.abs().max()):.1e} from the module"


def write_exact(head: nn.Module, folder: Path, format: str) -> int:
    """exact.c, exact.h and exact.bin of the head's three linear layers; returns the blob's bytes."""
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    blob = b""
    for layer in layers:
        weight = layer.weight.detach()
        scale = weight.abs().amax(1) / 127 if format == "int8" else torch.ones(len(weight))
        codes = (weight / scale[:, None]).round().to(torch.int8) if format == "int8" else weight
        blob += b"".join(t.detach().numpy().tobytes() for t in (codes, scale, layer.bias))
    (folder / "exact.bin").write_bytes(blob)
    (folder / "exact.h").write_text(
        f"#include <stddef.h>\n#define EXACT_IN {widths[0]}\n#define EXACT_OUT {widths[-1]}\n"
        "int exact_load(const void *blob, size_t size);\nvoid exact_run(const float *x, float *y);\n"
    )
    kind = "int8_t" if format == "int8" else "float"
    (folder / "exact.c").write_text(
        _EXACT.format(kind=kind, widths=", ".join(map(str, widths)), widest=max(widths[1:-1]))
    )
    return len(blob)


def compiled(folder: Path, name: str, flags: str, x: Tensor) -> tuple[Tensor, float, float]:
    """Outputs, and median seconds of a call, warm and cold."""
    (folder / "main.c").write_text(_MAIN.format(name=name, upper=name.upper(), rows=len(x)))
    program = folder / "program"
    sources = [folder / "main.c", folder / f"{name}.c"]
    subprocess.run(["gcc", "-std=c11", *flags.split(), *sources, "-lm", "-o", program], check=True)
    done = subprocess.run([program, folder / f"{name}.bin", "run"], input=x.numpy().tobytes(), capture_output=True)
    assert done.returncode == 0, done
    warm, cold = map(float, done.stderr.split())
    return torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(len(x), -1).copy()), warm, cold


if __name__ == "__main__":
    main()
