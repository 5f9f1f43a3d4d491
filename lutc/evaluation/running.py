"""`evaluate`: a model runs on each batch exactly and with every variant's tables, and is then as it was before."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from lutc.errors import LutcError
from lutc.evaluation.estimates import relative
from lutc.evaluation.layers import Means, NotFinite, Recorder, find_layers
from lutc.evaluation.logits import Head
from lutc.evaluation.outputs import Compared, ModelOutputs, outputs_of
from lutc.evaluation.placing import operators
from lutc.evaluation.results import Evaluation, LayerResult, Result
from lutc.evaluation.resuming import Resuming
from lutc.evaluation.storage import used_bytes
from lutc.evaluation.variants import EXACT_ON_CODES, Variant
from lutc.models.hugging_face import kind_of
from lutc.models.loading import Loaded, advised
from lutc.models.modes import evaluation_mode
from lutc.models.texts import several, to_device
from lutc.nn.patching import unpatch
from lutc.nn.patching.apply import refuse_patched
from lutc.observe.ranks import Ranks
from lutc.observe.running import model_digest
from lutc.table import table_set


def evaluate(
    loaded: Loaded | nn.Module,
    batches: Sequence,
    variants: Iterable[Variant],
    *,
    layers: bool | int = True,
    each_layer: bool | Sequence[str] = False,
    progress: Callable[..., object] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Run a model exactly and with the tables of each variant on the same batches, in eval mode.

    loaded: of `lutc.models.loading.load`; or a model, whose class says what it is for. batches: dicts of keyword
    arguments, tuples or tensors, moved to the model's device one at a time. layers: also the error of every layer,
    which takes one more forward for each batch and variant, on the exact model's inputs; a number: on the first so many
    batches. each_layer: also the whole model with one layer's tables at a time, or, of these modules, one's: as many
    forwards again as there are, begun at the layer where that changes nothing. progress: called as
    progress(0, total=forwards there will be), then as progress(1) after each.

    Of causal models every row of a batch is a window; standard errors are of as many independent windows as there are.
    What is kept besides the figures: the outputs of every layer on one batch, and its logits, or, where those exceed
    256 MiB and follow from the last linear layer, what enters it. Raises LutcError where a
    variant finds nothing to replace, where the exact model computes NaN (naming the layer), and for a model that is
    patched already. A variant that computes NaN gets a result that says where.
    """
    if isinstance(loaded, nn.Module):
        loaded = Loaded(loaded, kind_of(loaded), type(loaded).__name__)
    variants, batches = list(variants), list(several(batches))
    if not batches:
        raise LutcError("there are no batches to evaluate on; give at least one")
    refuse_patched(loaded.model, "evaluate")
    ranks = ranks or Ranks()
    ranks.agree(model_digest(loaded.model), "model")
    batches = ranks.share(batches, block=True)
    names = [variant.name for variant in variants]
    if twice := {name for name in names if names.count(name) > 1}:
        raise LutcError(f"two variants are called '{twice.pop()}'; give them names: `tables` NAME=...")
    with evaluation_mode(loaded.model):
        run = _Run(loaded, variants, layers, each_layer, progress or (lambda n, total=None: None))
        run.progress(0, total=run.forwards(len(batches)))
        for batch in batches:
            with advised("running the model"), torch.inference_mode():
                run.batch(to_device(dict(batch) if isinstance(batch, Mapping) else batch, loaded.device))
        run.join(ranks)
        return run.evaluation()


class _Run:
    def __init__(
        self,
        loaded: Loaded,
        variants: list[Variant],
        layers: bool | int,
        each_layer: bool | Sequence[str],
        progress: Callable[..., object],
    ):
        self.loaded, self.model, self.variants, self.progress = loaded, loaded.model, variants, progress
        self.head = Head(self.model, loaded.kind)
        sites = []
        self.results = [Result(variant.name) for variant in variants]
        self.used: list[list] = [[] for _ in variants]
        for variant, result, used in zip(variants, self.results, self.used, strict=True):
            with self._patched(variant) as report:  # errors of tables come before the model runs
                for entry in report.replaced:
                    result.sites[entry.what] = result.sites.get(entry.what, 0) + 1
                    sites.append(entry.path)
                left = Counter(f"{entry.what} ({entry.why})" for entry in report.left)
                result.left += [f"{count} {told}" for told, count in left.items()]
                used += [table for _, module in operators(self.model) for table in _tables_of(module)]
        found = find_layers(self.model, sites)
        self.found, self.layers = found, found if layers else []
        # one at a time; None: what lies in no layer
        self.alone = [*found, None] if each_layer is True else list(each_layer or [])
        self.left = len(self.layers) and (
            float("inf") if layers is True else int(layers)
        )  # batches on which layers are compared
        self.recorder = Recorder(self.model, self.layers)
        self.resuming = Resuming(self.recorder, found if self.alone else [])
        self.exact, self.seconds, self.tokens = Compared(), 0.0, 0
        self.compared = [Compared() for _ in variants]
        self.single = [{name: Compared() for name in self.alone} for _ in variants]
        self.errors, self.own, self.outside, self.clipped = ([Means() for _ in variants] for _ in range(4))

    def forwards(self, batches: int) -> int:
        """How many there are on so many batches, unless a variant fails."""
        return batches * (1 + len(self.variants) * (1 + len(self.alone))) + len(self.variants) * int(
            min(batches, self.left)
        )

    @contextlib.contextmanager
    def _patched(self, variant: Variant, **selection):
        report = variant.patch(self.model, **selection)
        try:
            yield report
        finally:
            unpatch(self.model)

    def batch(self, batch: Mapping) -> None:
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        self.head.wanted(batch)  # tries the head, once, before anything is recorded
        self.recorder.mask = mask.bool() if isinstance(mask, torch.Tensor) and mask.ndim == 2 else None
        compared = self.layers if self.left > 0 else []
        self.recorder.layers = self.found if self.alone else compared
        self.left -= 1
        try:
            with self.recorder.record():
                exact, seconds = self._forward(batch)
            if not exact.finite:
                self.recorder.layers = self.found
                with self.recorder.record():
                    self._call(batch)
                raise NotFinite("its output")
        except NotFinite as error:
            raise LutcError(
                f"the exact model computes NaN or infinities, first in {error.layer}; try `dtype` fp32 or bf16"
            ) from error
        self.resuming.prepare(lambda: self._call(batch), exact)
        self.recorder.layers = compared
        self.exact.add(exact, exact)
        self.seconds += seconds
        self.tokens += exact.tokens
        for index, (variant, result) in enumerate(zip(self.variants, self.results, strict=True)):
            if result.failed is None:
                try:
                    self._variant(index, variant, result, batch, exact)
                except NotFinite as error:
                    result.failed = f"NaN or infinities, first in {error.layer}"

    def _variant(self, index: int, variant: Variant, result: Result, batch, exact: ModelOutputs) -> None:
        with self._patched(variant):
            with (
                self.recorder.compare(self.errors[index]),
                self.recorder.ranges(self.model, self.outside[index], self.clipped[index]),
            ):
                found, seconds = self._forward(batch, exact)
            if not found.finite:
                raise NotFinite("the model's output")
            self.compared[index].add(found, exact)
            result.seconds += seconds
            if self.recorder.layers:
                with self.recorder.compare(self.own[index], on_exact_inputs=True):
                    self._call(batch)
                self.progress(1)
        for name in list(self.single[index]):
            try:
                with self._patched(variant, **({"skip": self.found} if name is None else {"only": name})) as report:
                    with self.resuming.at(report.replaced):
                        self.single[index][name].add(self._forward(batch, exact)[0], exact)
            except LutcError:  # nothing to replace there
                del self.single[index][name]
                self.progress(1)

    def _forward(self, batch, exact: ModelOutputs | None = None) -> tuple[ModelOutputs, float]:
        """What a forward gives, and its seconds without those of the hooks."""
        _wait(self.loaded.device)
        start, hooks = time.perf_counter(), self.recorder.seconds
        output = self._call(batch)
        _wait(self.loaded.device)
        seconds = time.perf_counter() - start - (self.recorder.seconds - hooks)
        head = self.head.module if self.head.wanted(batch) else None
        found = outputs_of(output, batch, self.loaded.kind, self.recorder.mask, exact, head)
        self.progress(1)
        return found, seconds

    def _call(self, batch):
        with self.head.left_out() if self.head.wanted(batch) else contextlib.nullcontext():
            if isinstance(batch, Mapping):
                return self.model(**batch)
            return self.model(*batch) if isinstance(batch, tuple | list) else self.model(batch)

    def join(self, ranks: Ranks) -> None:
        """What all ranks found, in the order of their batches; seconds are those of all."""
        names = ("exact", "compared", "single", "errors", "own", "outside", "clipped")
        told = [(result.failed, result.seconds) for result in self.results]
        parts = ranks.gather(({name: getattr(self, name) for name in names}, self.tokens, self.seconds, told))
        if ranks.count == 1:
            return
        (whole, self.tokens, self.seconds, told), *others = parts
        for name in names:
            setattr(self, name, whole[name])
        for part, tokens, seconds, more in others:
            self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds
            told = [(a or b, x + y) for (a, x), (b, y) in zip(told, more, strict=True)]
            self.exact.join(part["exact"])
            for name in names[1:]:
                for mine, other in zip(getattr(self, name), part[name], strict=True):
                    if isinstance(mine, dict):
                        for layer in mine:
                            mine[layer].join(other[layer])
                    else:
                        mine.join(other)
        for result, (failed, seconds) in zip(self.results, told, strict=True):
            result.failed, result.seconds = failed, seconds

    def evaluation(self) -> Evaluation:
        own = self.exact.figures() | {"kl": None, "kl_se": None, "divergences": []}  # from itself: 0
        exact, tokens = Result("exact", **own, seconds=self.seconds), [window.tokens for window in self.exact.windows]
        for index, (variant, result) in enumerate(zip(self.variants, self.results, strict=True)):
            result.bytes = used_bytes(self.used[index])
            if result.failed is None:
                vars(result).update(self.compared[index].figures())
            if result.losses:
                result.change, result.change_se = relative(result.losses, exact.losses, tokens)
            reference = next((r.losses for r in self.results if r.name == EXACT_ON_CODES), None)
            if variant.codes is not None and variant.name != EXACT_ON_CODES and result.losses and reference:
                result.change_on_codes, result.change_on_codes_se = relative(result.losses, reference, tokens)
            result.layers = [self._layer(index, name, exact) for name in self._names(index)]
        dtype = str(next((p.dtype for p in self.model.parameters()), "none")).removeprefix("torch.")
        return Evaluation(
            self.loaded.path,
            self.loaded.kind,
            dtype,
            str(self.loaded.device),
            self.tokens,
            [exact, *self.results],
            tokens,
        )

    def _names(self, index: int) -> list[str]:
        alone = [name for name in self.alone if name is not None]
        return list(dict.fromkeys([*self.layers, *alone])) + ["the rest"] * (None in self.single[index])

    def _layer(self, index: int, name: str, exact: Result) -> LayerResult:
        single = self.single[index].get(None if name == "the rest" else name)
        change = kl = None
        if single is not None and single.tokens:
            figures = single.figures()
            change = (
                1 - figures["cosine"] if figures["perplexity"] is None else figures["perplexity"] / exact.perplexity - 1
            )
            kl = figures["kl"]
        beyond = [_share(means[index], name) for means in (self.outside, self.clipped)]
        return LayerResult(name, self.errors[index].mean(name), self.own[index].mean(name), *beyond, change, kl)


def _share(means: Means, layer: str) -> float | None:
    """Of all sites within a layer."""
    inside = [name for name in means.counts if name == layer or name.startswith(f"{layer}.")]
    return sum(means.sums[name] for name in inside) / sum(means.counts[name] for name in inside) if inside else None


def _tables_of(module: nn.Module) -> list:
    """(set, key) of the tables that a module of lutc holds."""
    texts = [
        bytes(value.cpu().numpy()).decode()
        for name, value in module.named_buffers()
        if name.endswith("table") and value.dtype == torch.uint8
    ]
    found = [(tables, key) for tables in map(table_set.loads, texts) for key in tables]
    tables = getattr(module, "tables", None)
    if not found and hasattr(tables, "key_for_scale"):  # QuantLUT: the table of its scale
        scale = getattr(getattr(module, "quantise", None), "scale", None) or getattr(module, "scale", None)
        found = [(tables, key) for key in ([tables.key_for_scale(scale)] if isinstance(scale, float) else tables)]
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
