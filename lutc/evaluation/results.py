"""What an evaluation found: of every variant, and of each of its layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lutc.errors import LutcError
from lutc.evaluation.estimates import Estimate, difference


@dataclass
class LayerResult:
    """error: of the layer's output where all layers have tables, so that errors add up; own: of its output on the exact
    model's input. Both are the mean over tokens of |y' - y| / |y|. outside: share of the activations' inputs beyond the
    table's range; clipped: beyond the int8 codes; None where it has no such table. change: of the model's perplexity
    (relative) where this layer alone has tables, if that was asked for; for encoders 1 - cosine. kl: the divergence
    then, as a `Result` has it.
    """

    name: str
    error: float | None = None
    own: float | None = None
    outside: float | None = None
    clipped: float | None = None
    change: float | None = None
    kl: float | None = None


@dataclass
class Result:
    """One variant. perplexity, None for encoders; change: relative to exact; change_on_codes: relative to the exact
    functions on the same quantised inputs. kl: KL(exact || these tables) of the next token's distribution, nats per
    token, never below 0. *_se: standard errors, None with one window. losses, divergences: of every window the mean
    loss and KL per token, in nats. same: share of tokens (or documents) with the same largest output. cosine,
    worst_cosine: of documents' mean output vectors to the exact ones, for encoders and classifiers. bytes: of the
    tables that are used. seconds: of the forward passes. sites: replaced functions by kind. left: what was found and
    left alone, with its number and the reason. failed: why it gave no figures, naming the layer.
    """

    name: str
    perplexity: float | None = None
    change: float | None = None
    change_se: float | None = None
    change_on_codes: float | None = None
    change_on_codes_se: float | None = None
    kl: float | None = None
    kl_se: float | None = None
    same: float | None = None
    cosine: float | None = None
    worst_cosine: float | None = None
    bytes: int | None = None
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    layers: list[LayerResult] = field(default_factory=list)
    failed: str | None = None

    @property
    def worst(self) -> LayerResult | None:
        """The layer that hurts most: by what it alone does to the model if that was measured (KL, which has no sign,
        before perplexity), else by the error it adds itself.
        """
        for key in ("kl", "change"):
            alone = [layer for layer in self.layers if getattr(layer, key) is not None]
            if alone:
                return max(alone, key=lambda layer: getattr(layer, key))
        added = [layer for layer in self.layers if layer.own is not None]
        return max(added, key=lambda layer: layer.own or 0.0) if added else None


@dataclass
class Evaluation:
    """model, kind, dtype, device: what ran. tokens: that were predicted, or lie in documents. results: exact first.
    windows: of causal models, tokens predicted in each.
    """

    model: str
    kind: str
    dtype: str
    device: str
    tokens: int
    results: list[Result]
    windows: list[int] = field(default_factory=list)

    def __getitem__(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)

    def difference(self, one: str, other: str, measure: str = "divergences") -> Estimate:
        """Of two variants on the same windows: mean KL (or with "losses" mean loss) of `one` less that of `other`, nats
        per token, and its standard error. LutcError where one of them has none.
        """
        first, second = (getattr(self[name], measure) for name in (one, other))
        if not (first and second):
            missing = other if first else one
            raise LutcError(
                f"'{missing}' has no {measure}: {self[missing].failed or 'only tables in a causal model have them'}"
            )
        return difference(first, second, self.windows)

    def to_json(self) -> dict:
        """As plain values without NaN."""
        own = {key: getattr(self, key) for key in ("model", "kind", "dtype", "device", "tokens", "windows")}
        return own | {
            "results": [
                _plain(vars(result) | {"layers": [_plain(vars(layer)) for layer in result.layers]})
                for result in self.results
            ]
        }


def _plain(values: dict) -> dict:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
