"""The compiled MLP: centres, values, slopes and kept neurons in their storage format, frozen and self-validating."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.functions.in_torch import known, names, value
from lutc.taylor.cluster import nearest, rows_of_centres
from lutc.taylor.rounding import int8_slopes
from lutc.taylor.writing import save

# Storage format -> dtype of the slopes, dtype of centres and values. int8 slopes have one fp32 scale per row (one
# output of one centre) and one per column (one input, of all centres).
FORMATS = {
    "fp32": (torch.float32, torch.float32),
    "fp16": (torch.float16, torch.float16),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.int8, torch.float16),
}


@dataclass(frozen=True)
class TaylorTable:
    """F(x) ~ values[a] + slopes[a] @ z, where a is the nearest centre and z = x - centres[a], for order 2 followed by
    z^2 / 2, and at last by n kept neurons, activation(weights @ x + offsets).

    centres [k, d]; values [k, o]; slopes [k, o, d] or, for order 2, [k, o, 2 d] (Jacobian, then diagonal Hessian), n
    columns more with kept neurons; weights [n, d] and offsets [n] or None; all in the dtypes of `format` (weights as
    the centres). With chosen [k, n] (int32) each centre has n neurons of its own out of weights [m, d] and offsets [m].
    With projections [k, r, d] (in the centres' dtype) the Jacobians are of rank r: z = projections[a] @ (x -
    centres[a]), slopes [k, o, r + n]. activation: a name in `lutc functions`. int8 only, fp32: scales [k, o] of rows
    and, in newer tables, columns [width of slopes], slope = code * scale of its row * that of its column. radii [k]
    (fp32) or None: inputs farther from their centre than its radius belong to the exact MLP. counts [k] (int64):
    training samples per centre. `info` is what the artefact's JSON tells: block, modules, settings, data, certificate.
    Raises LutcError where shapes, dtypes or values do not fit together.
    """

    centres: Tensor
    values: Tensor
    slopes: Tensor
    counts: Tensor
    format: str = "fp32"
    scales: Tensor | None = None
    radii: Tensor | None = None
    weights: Tensor | None = None
    offsets: Tensor | None = None
    activation: str | None = None
    columns: Tensor | None = None
    chosen: Tensor | None = None
    projections: Tensor | None = None
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.format not in FORMATS:
            raise LutcError(f"format {self.format!r} is unknown; storage formats are {', '.join(FORMATS)}")
        if self.centres.ndim != 2 or self.values.ndim != 2 or self.slopes.ndim != 3:
            raise LutcError(
                "centres must be [k, d], values [k, o], slopes [k, o, d] or [k, o, 2 d], and a column more for each "
                "kept neuron"
            )
        (k, d), o, n = self.centres.shape, self.values.shape[1], self.neurons
        linear = (d, 2 * d) if self.projections is None else (self.rank,)
        if self.slopes.shape not in [(k, o, width + n) for width in linear]:
            raise LutcError(
                f"slopes of shape {list(self.slopes.shape)} do not fit {k} centres of width {d} with {o} outputs and "
                f"{n} neurons"
            )
        if (self.weights is None) != (self.offsets is None) or (self.weights is None) != (self.activation is None):
            raise LutcError("weights, offsets and activation of kept neurons belong together")
        if self.activation is not None:
            _check_activation(self.activation)
        if self.chosen is not None:
            _check_chosen(self.chosen, self.weights)
        expected = {
            "values": (k, o),
            "counts": (k,),
            "radii": (k,),
            "scales": (k, o),
            "columns": (self.slopes.shape[2],),
            "weights": (n if self.weights is None or self.chosen is None else len(self.weights), d),
            "offsets": (n if self.weights is None or self.chosen is None else len(self.weights),),
            "chosen": (k, n),
            "projections": (k, self.rank, d),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != shape:
                raise LutcError(f"{name} of shape {list(tensor.shape)} must be {list(shape)}")
        slope_dtype, dtype = FORMATS[self.format]
        others = (self.centres, self.values, self.weights, self.offsets, self.projections)
        if self.slopes.dtype != slope_dtype or any(x is not None and x.dtype != dtype for x in others):
            raise LutcError(
                f"format {self.format} wants {slope_dtype} slopes and {dtype} centres, values, neurons and projections"
            )
        if (self.scales is None) == (self.format == "int8") or self.columns is not None and self.scales is None:
            raise LutcError("scales of rows and columns belong to the int8 format and to no other")
        for name in ("centres", "values", "slopes", "scales", "columns", "radii", "weights", "offsets", "projections"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise LutcError(
                    f"{name} hold NaN or infinity; fit again, or store in a wider format than {self.format}"
                )

    @property
    def k(self) -> int:
        return self.centres.shape[0]

    @property
    def in_features(self) -> int:
        return self.centres.shape[1]

    @property
    def out_features(self) -> int:
        return self.values.shape[1]

    @property
    def neurons(self) -> int:
        """How many neurons are kept for an input."""
        if self.weights is None:
            return 0
        return len(self.weights) if self.chosen is None or self.chosen.ndim != 2 else self.chosen.shape[1]

    @property
    def rank(self) -> int:
        """Of the Jacobians, where they are stored as products; else 0."""
        return 0 if self.projections is None or self.projections.ndim != 3 else self.projections.shape[1]

    @property
    def order(self) -> int:
        return 1 if self.projections is not None else (self.slopes.shape[2] - self.neurons) // self.in_features

    @property
    def storage_bytes(self) -> int:
        """Bytes of what a runtime needs: centres, values, slopes, scales, radii, kept neurons, projections."""
        tensors = (self.centres, self.values, self.slopes, self.scales, self.columns, self.radii)
        others = (self.weights, self.offsets, self.chosen, self.projections)
        return sum(tensor.nbytes for tensor in (*tensors, *others) if tensor is not None)

    def multiply_adds(self, fallback: float = 0.0, exact: int = 0) -> float:
        """Multiply-adds per input: routing, the kept neurons and projections, one product with the slopes, and `exact`
        ones for the share `fallback`.
        """
        routing = self.k * self.in_features if self.k > 1 or self.radii is not None else 0
        first = (self.neurons + self.rank) * self.in_features
        return routing + first + self.slopes.shape[1] * self.slopes.shape[2] + fallback * exact

    def real_slopes(self) -> Tensor:
        """The slopes as float32 numbers, whatever the format."""
        slopes = self.slopes.float() if self.scales is None else self.slopes.float() * self.scales[..., None]
        return slopes if self.columns is None else slopes * self.columns

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate at x [n, d] in x's dtype (float32 or float64), centre by centre: the reference for every backend. No
        fallback.
        """
        owner = nearest(x, self.centres.to(x))
        y = x.new_empty(len(x), self.out_features)
        slopes = self.real_slopes()
        for index in owner.unique().tolist():
            rows = owner == index
            z = self.features(x[rows], index)
            y[rows] = self.values[index].to(x) + z @ slopes[index].to(x).T
        return torch.where(torch.isnan(x).any(1, keepdim=True), torch.nan, y)

    def features(self, x: Tensor, index: int) -> Tensor:
        """What the slopes of centre `index` multiply for x [n, d]: [n, p] in x's dtype."""
        z = features(x - self.centres[index].to(x), self.order)
        if self.projections is not None:
            z = z @ self.projections[index].to(x).T
        return self.with_neurons(z, x, index)

    def with_neurons(self, z: Tensor, x: Tensor, index: int) -> Tensor:
        """z [n, q] followed by the kept neurons of centre `index` at x [n, d]: [n, q + neurons]."""
        if self.weights is None or self.offsets is None or self.activation is None:
            return z
        rows = slice(None) if self.chosen is None else self.chosen[index].long()
        return torch.cat([z, hidden(x, self.weights[rows], self.offsets[rows], self.activation)], 1)

    def beyond(self, x: Tensor) -> Tensor:
        """Which rows of x [n, d] lie farther from their centre than its radius (bool [n]); none without radii."""
        if self.radii is None:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        centres = self.centres.to(x)
        owner = nearest(x, centres)
        return (x - centres[owner]).norm(dim=1) > self.radii.to(x)[owner]

    def stored(self, format: str, inputs: Tensor | None = None) -> TaylorTable:
        """The same table rounded to `format`. Centres are rounded first and values moved along, so that only rounding
        is lost.

        With `inputs` [n, d] (float32), samples of what the table is given, int8 loses least on these.
        """
        if format not in FORMATS:
            raise LutcError(f"format {format!r} is unknown; storage formats are {', '.join(FORMATS)}")
        slope_dtype, dtype = FORMATS[format]
        centres = self.centres.to(dtype)
        values, slopes = _moved(self, centres.double())
        scales = columns = None
        if format == "int8":
            slopes, scales, columns = int8_slopes(slopes, None if inputs is None else self._mean_squares(inputs))
        return replace(
            self,
            centres=centres,
            values=values.to(dtype),
            slopes=slopes.to(slope_dtype),
            format=format,
            scales=scales,
            columns=columns,
            weights=None if self.weights is None else self.weights.to(dtype),
            offsets=None if self.offsets is None else self.offsets.to(dtype),
            projections=None if self.projections is None else self.projections.to(dtype),
        )

    def _mean_squares(self, x: Tensor) -> Tensor:
        """Mean squares [k, p] (float64) of what each centre's slopes are multiplied with at x [n, d]; the mean over all
        centres counts as a ten-thousandth of a sample, for centres without any.
        """
        sums = torch.zeros(self.k, self.slopes.shape[2], dtype=torch.float64)
        counts = torch.zeros(self.k, 1, dtype=torch.float64)
        for index, rows in enumerate(rows_of_centres(nearest(x, self.centres), self.k)):
            sums[index] = self.features(x[rows], index).double().square().sum(0)
            counts[index] = len(rows)
        return (sums + 1e-4 * sums.sum(0) / counts.sum()) / (counts + 1e-4)

    def save(self, name: str | os.PathLike) -> None:
        """Write `name.json` beside `name.safetensors`."""
        save(self, name)


def features(z: Tensor, order: int) -> Tensor:
    """What the slopes multiply: z [n, d] for order 1, z and z^2 / 2 [n, 2 d] for order 2."""
    return z if order == 1 else torch.cat([z, z * z / 2], 1)


def _check_activation(name: str) -> None:
    if not known(name):
        raise LutcError(f"activation {name!r} of the kept neurons is unknown; known: {', '.join(names())}")


def _check_chosen(chosen: Tensor, weights: Tensor | None) -> None:
    if weights is None or chosen.dtype != torch.int32 or chosen.ndim != 2:
        raise LutcError(f"chosen must be int32 [k, n] beside weights; it is {chosen.dtype} {list(chosen.shape)}")
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(weights):
        raise LutcError(
            f"chosen must be rows of the {len(weights)} weights; it goes from {chosen.min()} to {chosen.max()}"
        )


def hidden(x: Tensor, weights: Tensor, offsets: Tensor, activation: str) -> Tensor:
    """The kept neurons: activation(x @ weights^T + offsets), x [..., d] -> [..., n] in x's dtype."""
    return value(activation, torch.nn.functional.linear(x, weights.to(x), offsets.to(x)))


def _moved(table: TaylorTable, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Values and slopes (float64) of the same functions about other centres: exact, they are polynomials (kept neurons
    have no centre).
    """
    d = table.in_features
    slopes = table.real_slopes().double()
    step = centres - table.centres.double()
    if table.projections is not None:
        # Exact up to the rounding of projections that comes after: it acts on x - centre, which is 0 on average.
        step = torch.einsum("krd,kd->kr", table.projections.double(), step)
    jacobians = slopes[..., : step.shape[1]]
    values = table.values.double() + torch.einsum("kod,kd->ko", jacobians, step)
    if table.order == 2:
        hessians = slopes[..., d : 2 * d]
        values = values + torch.einsum("kod,kd->ko", hessians, step * step / 2)
        slopes = torch.cat([jacobians + hessians * step[:, None], slopes[..., d:]], 2)
    return values, slopes
