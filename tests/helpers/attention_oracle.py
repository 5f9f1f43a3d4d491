"""Attention in float64 with the whole matrix of scores: the oracle of every backend, and the calls that are tried."""

import contextlib
import math

import numpy as np
import torch


def _table(table, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(table(x.detach().numpy())))


@contextlib.contextmanager
def small_blocks(monkeypatch, blocks, keys: int):
    """Several blocks of queries and of keys in small calls, which more threads would only wait for. blocks: the module
    that divides calls.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(blocks, "_SCORES", 1 << 12)
    monkeypatch.setattr(blocks, "_KEYS", keys)
    yield
    torch.set_num_threads(threads)


def attention(exp, q, k, v, mask=None, *, reciprocal=None, tanh=None, causal=False, offset=None, window=None,
              scale=None, softcap=None, alibi=None, sinks=None, lengths=None):  # fmt: skip
    """(batch, heads, queries, size) tensors of any float dtype -> float64, differentiable as the exact softmax is at
    the table's probabilities. exp, reciprocal, tanh: Table.
    """
    q, k, v = q.double(), k.double(), v.double()
    groups, (n, keys) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if softcap:
        x = s / softcap
        t = torch.tanh(x) if tanh is None else _table(tanh, x)
        s = softcap * (t.detach() + (x - x.detach()) * (1 - t.detach() ** 2))  # tanh's derivative at the table's value
    if alibi is not None:
        s = s - alibi.double().reshape(-1, q.shape[1], 1, 1) * distances(n, keys, offset)
    if mask is not None and mask.dtype != torch.bool:
        s = s + mask.double()
    s = s.masked_fill(~seen(q.shape[0], n, keys, mask, causal, offset, window, lengths), -math.inf)
    hidden = (s == -math.inf).all(-1, keepdim=True)
    if sinks is not None:
        s = torch.cat([s, sinks.double()[:, None, None].expand(*s.shape[:3], 1)], -1)
        hidden = torch.zeros_like(hidden)
    s = s.masked_fill(hidden, 0.0)
    d = (s - s.amax(-1, keepdim=True)).detach()
    w = _table(exp, d.clamp(min=-1e4)).clamp(min=0).masked_fill(d < -87, 0.0)
    total = w.sum(-1, keepdim=True)
    if reciprocal is None:
        p = w / total
    else:
        mantissa, exponent = np.frexp(total.numpy())
        p = w * torch.from_numpy(np.ldexp(reciprocal(2 * mantissa), 1 - exponent))
    # the exact softmax's derivative, p (g - sum g p), at these values
    p = _Softmax.apply(s, p)
    return (p[..., :keys] @ v).masked_fill(hidden, 0.0)


def distances(n: int, keys: int, offset: int | None) -> torch.Tensor:
    at = torch.arange(n)[:, None] + (keys - n if offset is None else offset)
    return (at - torch.arange(keys)).abs()


def seen(batch: int, n: int, keys: int, mask=None, causal=False, offset=None, window=None, lengths=None):
    """What positions, lengths and a bool mask leave to be seen, broadcast to (batch, heads, n, keys)."""
    at, j = torch.arange(n)[:, None] + (keys - n if offset is None else offset), torch.arange(keys)
    seen = torch.ones(batch, 1, n, keys, dtype=torch.bool)
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask
    if causal:
        seen = seen & (j <= at)
    if window:
        seen = seen & (j > at - window) & (j < at + window)
    if lengths is not None:
        seen = seen & (j < lengths[:, None, None, None])
    return seen


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores, probabilities):
        ctx.save_for_backward(probabilities)
        return probabilities.clone()

    @staticmethod
    def backward(ctx, gradient):
        (p,) = ctx.saved_tensors
        return p * (gradient - (gradient * p).sum(-1, keepdim=True)), None


# name -> (shape: batch, heads, key heads, queries, keys, size, value size; options)
CASES = {
    "plain": ((2, 3, 3, 70, 90, 32, 32), {}),
    "causal": ((1, 2, 2, 130, 130, 16, 16), {"causal": True}),
    "causal, cached keys": ((1, 4, 2, 5, 150, 64, 64), {"causal": True}),
    "causal from the first key": ((1, 4, 1, 40, 75, 64, 64), {"causal": True, "offset": 0}),
    "more queries than keys": ((1, 2, 2, 90, 40, 32, 32), {"causal": True}),
    "sliding window": ((1, 2, 2, 150, 150, 32, 32), {"causal": True, "window": 20}),
    "window on both sides": ((1, 2, 1, 150, 140, 32, 32), {"window": 20}),
    "bool mask": ((2, 3, 3, 65, 80, 40, 40), {"mask": "bool"}),
    "padding": ((3, 2, 2, 65, 80, 32, 32), {"mask": "padding"}),
    "added mask": ((2, 3, 3, 65, 80, 80, 80), {"mask": "added"}),
    "one bias for all": ((2, 3, 3, 65, 80, 32, 32), {"mask": "bias"}),
    "lengths": ((3, 2, 2, 33, 80, 32, 32), {"lengths": True}),
    "lengths, causal": ((3, 2, 2, 80, 80, 32, 32), {"lengths": True, "causal": True}),
    "alibi": ((2, 4, 2, 70, 90, 32, 32), {"alibi": True, "causal": True}),
    "softcap": ((1, 2, 2, 70, 90, 32, 32), {"softcap": 3.0}),
    "sinks": ((2, 4, 2, 70, 90, 32, 32), {"sinks": True, "causal": True, "window": 30}),
    "size 256": ((1, 2, 1, 20, 70, 256, 256), {"causal": True}),
    "values of another size": ((1, 2, 2, 33, 70, 48, 24), {"causal": True, "scale": 0.2}),
    "one query": ((2, 6, 2, 1, 300, 64, 64), {}),
    "all at once": (
        (2, 4, 2, 70, 90, 32, 32),
        {"causal": True, "window": 40, "mask": "added", "softcap": 4.0, "alibi": True, "sinks": True, "lengths": True},
    ),
}


def arguments(name: str, dtype=torch.float32, spread: float = 2.0):
    """(q, k, v, mask, options) of a case; the same on every run."""
    (batch, heads, key_heads, n, keys, size, value_size), options = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    options = dict(options)

    def random(*shape, by=1.0):
        return (torch.randn(*shape, generator=generator) * by).to(dtype)

    q, k = random(batch, heads, n, size, by=spread), random(batch, key_heads, keys, size)
    v = random(batch, key_heads, keys, value_size)
    kind, mask = options.pop("mask", None), None
    if kind == "bool":
        mask = torch.rand(batch, heads, n, keys, generator=generator) < 0.5
        mask[0, 0, 3] = False  # sees nothing
    elif kind == "padding":
        mask = torch.arange(keys) < torch.tensor([keys, 30, 0])[:, None, None, None]
    elif kind == "added":
        mask = random(batch, 1, n, keys).masked_fill(
            torch.rand(batch, 1, n, keys, generator=generator) < 0.3, -math.inf
        )
        mask[0, 0, 5] = torch.finfo(dtype).min  # as transformers hides whole rows: uniform
        mask[1, 0, 6] = -math.inf
    elif kind == "bias":
        mask = random(n, keys)
    if options.get("lengths"):
        options["lengths"] = torch.tensor([keys, 17, 0][:batch] if batch == 3 else [keys, 50])
    if options.get("alibi"):
        options["alibi"] = 2.0 ** -torch.arange(1, heads + 1).float()
    if options.get("sinks"):
        options["sinks"] = torch.randn(heads, generator=generator)
    return q, k, v, mask, options
