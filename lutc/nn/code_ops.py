"""The torch operator that looks codes up in one pass: `torch.ops.lutc.codes(q, table)` is table[q], codes to codes or
float32. `lines`, of `lines_over`, are another form of the same table, which a CPU may take instead.

On a CPU it runs `lutc.nn.cpu.codes`, on a GPU `lutc.kernels.codes`; elsewhere, and for what those do not serve, plain
torch operations give the same bits.
"""

from __future__ import annotations

import torch

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn.batched import is_batched, one_by_one
from lutc.nn.cpu import code_lines
from lutc.nn.cpu import codes as cpu
from lutc.nn.lowered import has_triton
from lutc.table.integer import IntegerLines

library = torch.library.Library("lutc", "FRAGMENT")
library.define("codes(Tensor q, Tensor table, Tensor? lines=None) -> Tensor")


def by_bits(outputs: torch.Tensor, lowest: int, dtype: torch.dtype) -> torch.Tensor:
    """Outputs of the codes from `lowest` up, in the last dimension, as the table that `codes` takes: one for every bit
    pattern of `dtype`, in the order of unsigned numbers; codes beyond those given saturate.
    """
    every = torch.arange(1 << 8 * dtype.itemsize, device=outputs.device)
    if dtype.is_signed:
        every = torch.where(every >= len(every) // 2, every - len(every), every)
    return outputs[..., (every - lowest).clamp(0, outputs.shape[-1] - 1)]


def dense(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense.default(x) else x.contiguous()


def check_length(name: str, values: torch.Tensor, wanted: int) -> None:
    """The kernels look up without asking: a vector of another length would be read out of bounds."""
    if values.shape != (wanted,):
        raise LutcError(f"{name} takes a vector of {wanted} here; given shape {tuple(values.shape)}")


def lines_over(lines: IntegerLines, out: Inputs | None, device: torch.device) -> torch.Tensor | None:
    """Lines over codes of more than 8 bits as `codes` takes them; None for others and where they do not fit."""
    words = code_lines.lines_of(lines, out) if lines.inputs.bits > 8 else None
    return None if words is None else torch.from_numpy(words).to(device)


def _codes_plain(q: torch.Tensor, table: torch.Tensor, lines: torch.Tensor | None = None) -> torch.Tensor:
    mask = (1 << 8 * q.itemsize) - 1
    return table[q.to(torch.int32) & mask]


def _codes_cpu(q: torch.Tensor, table: torch.Tensor, lines: torch.Tensor | None = None) -> torch.Tensor:
    check_length("codes: table", table, 1 << 8 * q.itemsize)
    widths = (q.itemsize, table.itemsize)
    if widths not in cpu.WIDTHS:
        return _codes_plain(q, table)
    out = torch.empty_like(q, dtype=table.dtype)
    source = dense(q)
    target = out if out.stride() == source.stride() else torch.empty_like(source, dtype=table.dtype)
    table = table.contiguous()
    threads = torch.get_num_threads()
    given = source.data_ptr(), target.data_ptr(), source.numel()
    if lines is not None and code_lines.permutes_halves():
        check_length("codes: lines", lines, code_lines.SIZE)
        code_lines.through_lines(*given, lines.contiguous().data_ptr(), threads)
    else:
        cpu.look_up(*given, table.data_ptr(), widths, threads)
    return out if target is out else out.copy_(target)


def _codes_cuda(q: torch.Tensor, table: torch.Tensor, lines: torch.Tensor | None = None) -> torch.Tensor:
    check_length("codes: table", table, 1 << 8 * q.itemsize)
    if not has_triton() or not q.numel() or table.device != q.device:
        return _codes_plain(q, table)
    from lutc.kernels import codes as kernels  # brings triton

    source = dense(q)
    out = torch.empty_like(source, dtype=table.dtype)
    kernels.codes(source, table.contiguous(), out)
    return out


library.impl("codes", _codes_cpu, "CPU")
library.impl("codes", _codes_cuda, "CUDA")
library.impl("codes", _codes_plain, "CompositeExplicitAutograd")
torch.library.register_fake(
    "lutc::codes", lambda q, table, lines=None: torch.empty_like(q, dtype=table.dtype), lib=library
)


def _codes_batched(info, dims, q, table, lines=None):
    if is_batched(dims[1:]):
        return one_by_one(torch.ops.lutc.codes.default, info, dims, q, table, lines)
    return torch.ops.lutc.codes(q, table, lines), dims[0]


torch.library.register_vmap("lutc::codes", _codes_batched, lib=library)
