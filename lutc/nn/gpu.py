"""Plans on a GPU: which memory a Triton kernel walks over for tensors of any shape and stride."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lutc.kernels import pwl


def _rows(x: torch.Tensor) -> tuple[int, int, int] | None:
    """(rows, columns, elements from row to row) of a tensor whose rows lie contiguous at a constant distance, as halves
    of a chunked one do.
    """
    if x.dim() < 2 or x.stride(-1) != 1:
        return None
    try:
        view = x.view(-1, x.shape[-1])
    except RuntimeError:  # no one distance
        return None
    if view.shape[1] > pwl.LONGEST_ROW:
        return None
    return view.shape[0], view.shape[1], view.stride(0)


def _flat(*tensors: torch.Tensor) -> bool:
    """Whether all of them fill their memory in the same order, so that it can be read as flat."""
    first = tensors[0]
    return torch.ops.aten.is_non_overlapping_and_dense.default(first) and all(
        t.stride() == first.stride() for t in tensors
    )


def _run(x, y, words, meta, mode: str) -> torch.Tensor:
    out = torch.empty_like(x)
    if not x.numel():
        return out
    others = () if y is None else (y,)
    if _flat(x, out, *others):
        pwl.launch(x, y, out, words, meta, mode, 1, x.numel(), 0, 0)
        return out
    layouts = [_rows(t) for t in (x, *others)]
    if not out.is_contiguous() or None in layouts:
        x, y = x.contiguous(), None if y is None else y.contiguous()
        dense = out if out.is_contiguous() else torch.empty_like(x)
        pwl.launch(x, y, dense, words, meta, mode, 1, x.numel(), 0, 0)
        return out if dense is out else out.copy_(dense)
    rows, columns, stride = layouts[0]
    pwl.launch(x, y, out, words, meta, mode, rows, columns, stride, layouts[-1][2])
    return out


def values(x: torch.Tensor, words: torch.Tensor, meta: Sequence[int]) -> torch.Tensor:
    """The plan's value at every element: shape, dtype and strides of x as `torch.empty_like` gives them."""
    return _run(x, None, words, meta, "value")


def slopes(x: torch.Tensor, words: torch.Tensor, meta: Sequence[int]) -> torch.Tensor:
    """The slope of every element's segment."""
    return _run(x, None, words, meta, "slope")


def products(x: torch.Tensor, y: torch.Tensor, words: torch.Tensor, meta: Sequence[int]) -> torch.Tensor:
    """values(x) * y in one pass; x and y of one shape and dtype."""
    return _run(x, y, words, meta, "product")


def gradients(gradient: torch.Tensor, x: torch.Tensor, words: torch.Tensor, meta: Sequence[int]) -> torch.Tensor:
    """slopes(x) * gradient in one pass."""
    return _run(x, gradient, words, meta, "gradient")


def values_of_codes(
    codes: torch.Tensor, words: torch.Tensor, meta: Sequence[int], scale: float, zero_point: int = 0
) -> torch.Tensor:
    """float32 values at scale * (code - zero_point) for contiguous int8 codes, from a float32 plan."""
    out = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
    if codes.numel():
        pwl.launch(codes.contiguous(), None, out, words, meta, "value", 1, codes.numel(), 0, 0, scale, zero_point)
    return out
