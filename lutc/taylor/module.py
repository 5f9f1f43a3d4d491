"""TaylorMLP: a compiled MLP as a torch module."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.functions.in_torch import value
from lutc.taylor import cpu, ops, reading
from lutc.taylor.cluster import half_norms
from lutc.taylor.table import FORMATS, TaylorTable, features, hidden

if TYPE_CHECKING:
    from lutc.taylor.cpu_local import LocalBound

_INPUT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class TaylorMLP(nn.Module):
    """y = F(c) + J (x - c) (+ diag(H) (x - c)^2 / 2) (+ kept neurons) about the centre c nearest to x [..., d]; returns
    [..., o] in x's dtype.

    Inputs are float32, float16 or bfloat16; sums are float32 (under autocast on the CPU they are of its dtype). A row
    with NaN gives NaN. `slopes`, `bias`, and `weights` and `offsets` of kept neurons are parameters (trainable but for
    int8 slopes), centres are buffers: routing has no gradient. With radii in the table, `exact` is the module that rows
    beyond them run through; it stays registered, so a state_dict carries its weights. Raises LutcError for another
    width, dtype or device.
    """

    centres: Tensor
    half_norms: Tensor
    radii: Tensor | None
    scales: Tensor | None
    columns: Tensor | None
    chosen: Tensor | None
    counts: Tensor

    def __init__(self, table: TaylorTable, exact: nn.Module | None = None):
        super().__init__()
        if (table.radii is None) != (exact is None):
            has = "the table has a fallback: give the exact MLP as `exact`"
            has_not = "the table has no fallback (radii): fit with fallback > 0, or leave `exact` out"
            raise LutcError(has if exact is None else has_not)
        self.in_features, self.out_features, self.k, self.order = (
            table.in_features,
            table.out_features,
            table.k,
            table.order,
        )
        self.format, self.info, self.fallback = table.format, table.info, table.radii is not None
        centres = table.centres.float()
        self.register_buffer("centres", centres)
        self.register_buffer("half_norms", half_norms(centres))
        self.register_buffer("radii", None if table.radii is None else table.radii.clone())
        self.register_buffer("scales", None if table.scales is None else table.scales.clone())
        self.register_buffer("columns", None if table.columns is None else table.columns.clone())
        self.register_buffer("chosen", None if table.chosen is None else table.chosen.clone())
        self.register_buffer("counts", table.counts.clone())
        self.slopes = nn.Parameter(table.slopes.clone(), requires_grad=table.slopes.is_floating_point())
        bias = table.values.float()
        if self.order == 1:
            # values - slopes @ centres, in float64: rows then need no subtraction of their centre.
            bias = (table.values.double() - _about(table.real_slopes(), centres, table.projections)).float()
        self.bias = nn.Parameter(bias)
        self.activation = table.activation
        self.weights = None if table.weights is None else nn.Parameter(table.weights.float().clone())
        self.offsets = None if table.offsets is None else nn.Parameter(table.offsets.float().clone())
        self.projections = None if table.projections is None else nn.Parameter(table.projections.clone())
        self.exact = exact
        self._bound: cpu.Bound | LocalBound | None = None

    @classmethod
    def load(cls, name: str | os.PathLike, exact: nn.Module | None = None) -> TaylorMLP:
        """The module of the artefact `name`.json and `name`.safetensors; `exact` is needed where it has a fallback."""
        return cls(reading.load(name), exact)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and self._small(x):
            if self._bound is None or not self._bound.valid():
                self._bound = self._bind()
            return self._bound(x)
        if x.shape[-1] != self.in_features:
            raise LutcError(
                f"the input is {x.shape[-1]} wide, the table {self.in_features}; this table belongs to another layer "
                "or model"
            )
        if x.dtype not in _INPUT_DTYPES:
            raise LutcError(
                f"inputs of {x.dtype} are not supported; use "
                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in _INPUT_DTYPES)}"
            )
        ops.check_device(x, self.centres)
        rows = x.reshape(-1, self.in_features).float()
        owner = ops.route(rows.detach(), self.centres, self.half_norms)
        z = rows if self.order == 1 else features(rows - self.centres[owner], 2)
        own = rows.to(torch.get_autocast_dtype("cpu")) if x.is_cpu and torch.is_autocast_enabled("cpu") else rows
        if self.projections is not None:
            z = ops.grouped_linear(own, owner, self.projections, None, rows.new_zeros(self.k, self.rank)).float()
        if (neurons := self._neurons) is not None:
            z = torch.cat([z, self._kept(rows, own, owner, *neurons).float()], 1)
        if self.columns is not None:
            z = z * self.columns
        y = ops.grouped_linear(z.to(own.dtype), owner, self.slopes, self.scales, self.bias)
        if self.exact is not None:
            y = self._with_exact(self.exact, x, rows, owner, y)
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _kept(
        self, rows: Tensor, own: Tensor, owner: Tensor, weights: Tensor, offsets: Tensor, activation: str
    ) -> Tensor:
        """The kept neurons [n, neurons] of rows [n, d]; `own` are the rows in the dtype of products."""
        if self.chosen is None:
            return hidden(rows, weights, offsets, activation)
        return value(activation, ops.chosen_linear(own, owner, weights, offsets, self.chosen))

    def _bind(self) -> cpu.Bound | LocalBound:
        if self._local:
            return _kernels().LocalBound(self)
        return cpu.Bound(
            self.centres, self.half_norms, self.slopes, self.scales, self.bias, self.columns, self._neurons
        )

    @property
    def _local(self) -> bool:
        """Whether the first product, too, is each centre's own."""
        return self.chosen is not None or self.projections is not None

    @property
    def rank(self) -> int:
        """Of the Jacobians, where they are stored as products; else 0."""
        return 0 if self.projections is None else self.projections.shape[1]

    @property
    def _neurons(self) -> tuple[Tensor, Tensor, str] | None:
        """Weights, offsets and activation of kept neurons."""
        if self.weights is None or self.offsets is None or self.activation is None:
            return None
        return self.weights, self.offsets, self.activation

    def _small(self, x: Tensor) -> bool:
        """Whether one numba call does all: few float32 rows on the CPU, no gradient wanted, first
        order, no fallback.
        """
        if x.numel() > cpu.SMALL_BATCH * self.in_features or self.order == 2 or self.fallback:
            return False
        if (
            x.dtype != torch.float32
            or x.shape[-1] != self.in_features
            or not x.is_cpu
            or not x.is_contiguous()
            or not x.numel()
        ):
            return False
        if torch.is_grad_enabled() and (
            x.requires_grad or any(parameter.requires_grad for parameter in self.parameters(recurse=False))
        ):
            return False
        return self.centres.is_cpu and (not self._local or _kernels().serves(self.activation))

    def _with_exact(self, exact: nn.Module, x: Tensor, rows: Tensor, owner: Tensor, y: Tensor) -> Tensor:
        far = self.far(rows, owner)
        original = x.reshape(-1, self.in_features)
        if torch.compiler.is_compiling():
            # How many rows are far is not known to a graph: it runs the exact MLP on all rows and chooses.
            return torch.where(far[:, None], exact(original).to(y.dtype), y)
        chosen = far.nonzero().flatten()
        return y.index_copy(0, chosen, exact(original[chosen]).to(y.dtype)) if len(chosen) else y

    def __getstate__(self) -> dict:
        """Copies and pickles bind their own arrays."""
        return {**self.__dict__, "_bound": None}

    def far(self, rows: Tensor, owner: Tensor) -> Tensor:
        """Which rows [n, d] lie beyond the radius of their centre (bool [n]); none without radii."""
        if self.radii is None:
            return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        return (rows - self.centres[owner]).norm(dim=1) > self.radii[owner]

    def _apply(self, fn, recurse=True):
        """Moves go through; casts do not: `.half()` on a model must not round a table. The exact MLP is cast like the
        model.
        """
        self._bound = None

        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        if recurse and self.exact is not None:
            self.exact._apply(fn)
        return super()._apply(moved, recurse=False)

    def table(self) -> TaylorTable:
        """The table with the parameters as they are now (after fine-tuning, say), in its format, without a certificate:
        certify it anew.
        """
        slope_dtype, dtype = FORMATS[self.format]
        bias = self.bias.detach().double()
        slopes = self.slopes.detach()
        values = bias
        if self.order == 1:
            real = ops.real(slopes, self.scales)
            real = real if self.columns is None else real * self.columns
            values = bias + _about(real, self.centres, self.projections)
        return TaylorTable(
            self.centres.to(dtype).cpu(),
            values.to(dtype).cpu(),
            slopes.to(slope_dtype).cpu().clone(),
            self.counts.cpu(),
            self.format,
            None if self.scales is None else self.scales.cpu(),
            None if self.radii is None else self.radii.cpu(),
            None if self.weights is None else self.weights.detach().to(dtype).cpu(),
            None if self.offsets is None else self.offsets.detach().to(dtype).cpu(),
            self.activation,
            None if self.columns is None else self.columns.cpu(),
            None if self.chosen is None else self.chosen.cpu(),
            None if self.projections is None else self.projections.detach().cpu().clone(),
            {**self.info, "certificate": None},
        )

    def extra_repr(self) -> str:
        fallback = "" if self.radii is None else ", fallback to the exact MLP"
        local = "" if self.chosen is None else f" of {self.chosen.shape[1]} to each centre"
        kept = "" if self.weights is None else f", {len(self.weights)} neurons{local}"
        kept += "" if self.projections is None else f", rank {self.rank}"
        return (
            f"{self.in_features} -> {self.out_features}, k={self.k}, order={self.order}{kept}, {self.format}{fallback}"
        )


def _kernels():
    from lutc.taylor import cpu_local  # brings numba

    return cpu_local


def _about(slopes: Tensor, centres: Tensor, projections: Tensor | None) -> Tensor:
    """J c [k, o] in float64: slopes [k, o, p], of which the first d columns are the Jacobians J, or the first r times
    projections [k, r, d], and centres c [k, d].
    """
    z = centres.double()
    if projections is not None:
        z = torch.einsum("krd,kd->kr", projections.detach().double(), z)
    return torch.einsum("kod,kd->ko", slopes[..., : z.shape[1]].double(), z)
