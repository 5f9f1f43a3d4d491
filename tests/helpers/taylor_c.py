"""Compiling a table's exported C with a main program, and running it natively, under sanitizers, or under qemu."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch

from lutc.taylor.exporting import export_c
from lutc.taylor.table import TaylorTable

STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
CROSS = "aarch64-linux-gnu-gcc"

# Rows of floats come in, the number of the centre and a row of floats go out; a blob's path is the one argument.
_MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "{name}.h"

int main(int argc, char **argv)
{{
    float *x = malloc(sizeof(float) * {upper}_IN), *y = malloc(sizeof(float) * {upper}_OUT);
    {load}
    (void)argc, (void)argv;
    while (fread(x, sizeof *x, {upper}_IN, stdin) == {upper}_IN) {{
        int centre = {name}_centre(x);
        {name}_run(x, y);
        fwrite(&centre, sizeof centre, 1, stdout);
        fwrite(y, sizeof *y, {upper}_OUT, stdout);
    }}
    free(x);
    free(y);
    {free}
    return 0;
}}
"""
_LOAD = """
    FILE *file = fopen(argv[1], "rb");
    long size = (fseek(file, 0, SEEK_END), ftell(file));
    char *blob = malloc((size_t)size + 16);
    int skip = argc > 2 ? atoi(argv[2]) : 0, status;
    rewind(file);
    if (fread(blob + skip, 1, (size_t)size, file) != (size_t)size || (fclose(file), 0))
        return 9;
    status = {name}_load(blob + skip, (size_t)size);
    if (status != 0)
        return free(blob), free(x), free(y), 10 + status;
"""


def build(table: TaylorTable, folder: Path, *flags: str, blob: bool = False, compiler: str = "gcc") -> Path:
    """The program of `table`, exported as `head` into `folder` and compiled with `flags`."""
    export_c(table, folder, "head", blob=blob)
    load, free = (_LOAD.format(name="head"), "free(blob);") if blob else ("", "")
    (folder / "main.c").write_text(_MAIN.format(name="head", upper="HEAD", load=load, free=free))
    program = folder / "program"
    command = [compiler, *flags, "head.c", "main.c", "-lm", "-o", str(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run(
    program: Path, table: TaylorTable, x: torch.Tensor, *arguments: str, emulator: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres [n] (int64) and outputs [n, o] (float32) of the program at x [n, d]."""
    command = [*([emulator] if emulator else []), str(program), *arguments]
    done = subprocess.run(command, input=x.numpy().astype("<f4").tobytes(), capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr.decode()[-2000:])
    words = np.frombuffer(done.stdout, "<f4").reshape(len(x), 1 + table.out_features)
    centres = words[:, 0].copy().view("<i4").astype(np.int64)
    return torch.from_numpy(centres), torch.from_numpy(words[:, 1:].copy())


def has(*tools: str) -> bool:
    return all(shutil.which(tool) for tool in tools)
