"""An evaluation as a picture: what every variant does to the model, and the error of every layer."""

from __future__ import annotations

import os

from lutc import plots
from lutc.evaluation.results import Evaluation

_COLOURS = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, "#CC79A7", "#56B4E9", plots.GREY, plots.INK)
_MARKS = "os^Dv<>P"


def draw(found: Evaluation, path: str | os.PathLike) -> None:
    """Write a picture of the evaluation to a .png, .svg or .pdf."""
    results = [result for result in found.results[1:] if result.failed is None]
    tried = [result for result in results if any(layer.error is not None for layer in result.layers)]
    causal = found.kind == "causal"
    with plots.new_figure(7.2, 0.9 + 0.28 * len(results) + 3.4 * bool(tried)) as figure:
        heights = [0.9 + 0.28 * len(results), 3.4] if tried else [1]
        axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        sizes = [max(result.kl if causal else 1 - result.cosine, 0.0) for result in results]
        style = {
            "height": 0.6,
            "color": [_COLOURS[i % len(_COLOURS)] for i in range(len(results))],
            "ecolor": plots.INK,
        }
        axes[0].barh(
            range(len(results)), sizes, xerr=[result.kl_se or 0.0 for result in results] if causal else None, **style
        )
        axes[0].set_yticks(range(len(results)), [result.name for result in results])
        axes[0].invert_yaxis()
        titles = (
            "1 - cosine to the exact embedding",
            "KL divergence from the exact model, nats per token (change of the perplexity)",
        )
        axes[0].set_title(titles[causal])
        if any(sizes):
            axes[0].set_xscale("log")
            axes[0].set_xlim(min(size for size in sizes if size > 0) / 10, 10 * max(sizes))
        for i, (result, size) in enumerate(zip(results, sizes, strict=True)):
            label = f" {size:.2e}" + (f" ({100 * result.change:+.3g} %)" if causal else "")
            axes[0].annotate(label, (size + (result.kl_se or 0.0), i), va="center", ha="left", fontsize=8)
        if tried:
            for result in tried:
                i = results.index(result)
                shown = [layer for layer in result.layers if layer.error is not None]
                style = {
                    "color": _COLOURS[i % len(_COLOURS)],
                    "marker": _MARKS[i % len(_MARKS)],
                    "markersize": 3,
                    "linewidth": 1,
                }
                axes[1].plot(range(len(shown)), [layer.error for layer in shown], label=result.name, **style)
            axes[1].set_yscale("log")
            axes[1].set_title("error of the layers' outputs, relative, mean over tokens")
            axes[1].set_xlabel("layer")
            axes[1].xaxis.get_major_locator().set_params(integer=True)
            axes[1].grid(True, axis="y")
            axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        plots.save(figure, path)
