"""The error that a model's next layer feels, as a quadratic form of a table's error at every input code, and its place
in a calibration file.

Of a token with inputs x_c (channels c), gates g_c (1 without a gated MLP) and input codes q_c, the next linear layer W
gives sum_c W_c g_c f(x_c). With a table it gives that plus U e + n: e is the table's error at every code, U (outputs,
codes) holds the columns of W, scaled by the gates and summed by input code, and n is what rounding the inputs to codes
does already. The mean of |U e + n|^2 over tokens is e' H e + 2 b' e + c. Calibration sums the whole of it, the matrix
(codes + 1, codes + 1) of [U n]' [U n], so that merging adds. Importing this imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lutc.calibration.file import Layer
from lutc.errors import LutcError
from lutc.formats.codes import Inputs

_UNSEEN = 1e-9  # share of the weights that all codes have alike
_FACTS = "layer_error"
_TOKENS = "layer_error tokens"


@dataclass(frozen=True, eq=False)
class LayerError:
    """form: float64 (n + 1, n + 1), the sum over `tokens` tokens of w [U n]' [U n] at the input codes `inputs`, w the
    weight of a token.

    facts: {"linear": name of the next layer, "norm": name of the norm that follows it or None}: with a norm, w is 1 /
    variance of what enters it and W is what the norm makes of it (centred by a LayerNorm, times its gain).
    """

    function: str
    inputs: Inputs
    form: np.ndarray
    tokens: int
    facts: Mapping = field(default_factory=dict)

    def __post_init__(self):
        n = self.inputs.maximum - self.inputs.minimum + 2
        if self.form.shape != (n, n) or not np.isfinite(self.form).all() or self.tokens < 1:
            raise LutcError(
                f"a layer's error at {self.inputs.bits}-bit codes is a finite {n} x {n} matrix of some tokens; given "
                f"{self.form.shape}"
            )

    @property
    def record(self) -> dict:
        """What a table's file tells of it; the digest is of the sums and their tokens."""
        digest = hashlib.sha256(
            np.ascontiguousarray(self.form, "<f8").tobytes() + str(self.tokens).encode()
        ).hexdigest()
        return {**self.facts, "tokens": self.tokens, "sha256": digest}

    @property
    def matrix(self) -> np.ndarray:
        """H, float64 (n, n): the mean over tokens, rows and columns by ascending code."""
        return self.form[:-1, :-1] / self.tokens

    @property
    def offset(self) -> np.ndarray:
        """b, float64 (n,): what the rounding of inputs adds to a table's error."""
        return self.form[:-1, -1] / self.tokens

    @property
    def floor(self) -> float:
        """c: the mean squared error of the exact function on the codes."""
        return float(self.form[-1, -1] / self.tokens)

    def error(self, values: np.ndarray, exact: np.ndarray) -> float:
        """Mean squared error of the layer's output that a table with `values` (n,) adds to that of the `exact` function
        (n,) on the codes: e' H e.
        """
        e = np.asarray(values, np.float64) - exact
        return float(e @ self.matrix @ e)

    def total(self, values: np.ndarray, exact: np.ndarray) -> float:
        """The same against the exact function on inputs that are not rounded: e' H e + 2 b' e + c."""
        e = np.append(np.asarray(values, np.float64) - exact, 1.0)
        return float(e @ self.form @ e / self.tokens)


@dataclass(frozen=True, eq=False)
class LayerErrors:
    """Of one layer, at each of the input codes it was calibrated for; maybe none, and without a name of no layer.
    Stands as weights of a request.
    """

    name: str
    errors: tuple[LayerError, ...]

    def at(self, inputs: Inputs) -> LayerError:
        """The one at these codes; LutcError where there is none."""
        if not self.name:
            raise LutcError("a layer error is that of one layer; name it: `weights` calibration.json:LAYER")
        if not self.errors:
            raise LutcError(
                f"the calibration holds no layer error of {self.name}; make it with `lutc calibrate ... --layer-error "
                "auto`"
            )
        for error in self.errors:
            if error.inputs == inputs:
                return error
        known = ", ".join(_told(error.inputs) for error in self.errors)
        raise LutcError(
            f"the layer error of {self.name} was calibrated for {known}; given {_told(inputs)}: take one of those or "
            "calibrate at this"
        )

    def of_codes(self, inputs: Inputs) -> np.ndarray:
        """The diagonal of H as weights of the codes, float64 (n,), ascending, sum 1; a little for codes that did not
        occur.
        """
        diagonal = np.diag(self.at(inputs).matrix)
        if not diagonal.sum() > 0:
            raise LutcError(
                f"the layer error of {self.name} is 0 at every code: the layer's output does not depend on it; choose "
                "another layer"
            )
        return (1 - _UNSEEN) * diagonal / diagonal.sum() + _UNSEEN / diagonal.size


def _name(inputs: Inputs) -> str:
    return f"layer_error {inputs.bits} bits {float(inputs.scale)!r} {inputs.zero_point}"


def with_errors(layer: Layer, errors: Iterable[LayerError]) -> Layer:
    """The layer of a calibration with these errors, of one site and one pass, among its arrays."""
    errors = list(errors)
    facts = {**errors[0].facts, "inputs": [[e.inputs.bits, float(e.inputs.scale), e.inputs.zero_point] for e in errors]}
    arrays = {_name(e.inputs): e.form for e in errors}
    return replace(
        layer,
        arrays={**layer.arrays, **arrays, _TOKENS: np.array(errors[0].tokens)},
        facts={**layer.facts, _FACTS: facts},
    )


def errors_of(name: str, layer: Layer) -> LayerErrors:
    """What the layer `name` of a calibration holds."""
    facts = layer.facts.get(_FACTS)
    if facts is None:
        return LayerErrors(name, ())
    told = {key: value for key, value in facts.items() if key != "inputs"}
    inputs = [Inputs(*given) for given in facts["inputs"]]
    return LayerErrors(
        name,
        tuple(LayerError(layer.function, i, layer.arrays[_name(i)], int(layer.arrays[_TOKENS]), told) for i in inputs),
    )


def _told(inputs: Inputs) -> str:
    scale = inputs.written
    return f"{inputs.bits} bits at scale {scale}" + (
        f" with zero point {inputs.zero_point}" if inputs.zero_point else ""
    )
