"""A picture of the front of an exploration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from lutc.explore.designs import OBJECTIVES
from lutc.formats.codes import Inputs
from lutc.hardware.bits import FIGURES
from lutc.plots.figure import BLUE, GREEN, GREY, ORANGE, RED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lutc.explore.evolution import Exploration

_KINDS = {
    "direct": (RED, "s", "direct table"),
    "uniform": (ORANGE, "^", "equal segments"),
    "pot": (GREY, "v", "slopes by one shift"),
    "apot:2": (GREY, "P", "slopes by two shifts"),
    "shared": (GREEN, "D", "one set for all scales"),
}


def front_figure(exploration: Exploration) -> Figure:
    """Error against each cost minimised, logarithmic: the front with some designs named, and the baselines. A panel for
    each cost.
    """
    space, names = exploration.space, exploration.minimise
    width = 7.2 if len(names) == 1 else 1.0 + 4.4 * len(names)
    with new_figure(width, 4.6) as figure:
        every = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(every, names):
            _draw_front(axes, exploration, name)
        every[0].set_ylabel(OBJECTIVES[space.objective])
        every[0].legend(loc="upper right", fontsize=8, handlelength=1.6, labelspacing=0.3)
        scales = ", ".join(_power(inputs) for inputs in space.inputs)
        title = f"{space.function}, int{space.inputs[0].bits} inputs at scale {scales}"
        every[0].set_title(title + (f", int{space.out.bits} outputs at scale {_power(space.out)}" if space.out else ""))
    return figure


def _power(inputs: Inputs) -> str:
    return f"$2^{{{-inputs.power}}}$" if inputs.power is not None else f"{inputs.scale:.4g}"


def _draw_front(axes, exploration, name: str) -> None:
    label, of = FIGURES[name]
    front, baselines = exploration.front, exploration.baselines
    axes.grid(True, which="major")
    for kind, (color, marker, text) in _KINDS.items():
        found = [b for b in baselines if b.kind == kind]
        if found:
            at = [of(b.cost) for b in found], [b.error for b in found]
            axes.plot(
                *at,
                marker,
                color=color,
                markersize=5.0,
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=text,
                zorder=3,
            )
    x, y = np.array([of(d.cost) for d in front], float), np.array([d.error for d in front])
    order = np.lexsort((y, x))
    best = order[
        np.append(True, np.minimum.accumulate(y[order])[:-1] > y[order][1:])
    ]  # what this one cost alone would leave
    axes.plot(x[best], y[best], color=BLUE, linewidth=0.9, drawstyle="steps-post", alpha=0.5, zorder=2)
    dots = {"color": BLUE, "markersize": 4.2, "markeredgecolor": "white", "markeredgewidth": 0.5}
    axes.plot(x[best], y[best], "o", **dots, label="searched breakpoints", zorder=5)
    axes.plot(x, y, "o", **dots, alpha=0.3, zorder=4)
    _error_axis(axes, [p.error for p in (*front, *baselines)])
    if name == "bits":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
        _name_designs(axes, [front[at] for at in best], of, baselines)
    axes.margins(x=0.16 if name == "bits" else 0.09)  # names stand to the left of their designs
    axes.set_xlabel(label)


def _error_axis(axes, errors: list[float]) -> None:
    """Logarithmic; where a design is exact the axis has 0 below its smallest error."""
    positive = [error for error in errors if error > 0]
    if len(positive) == len(errors):
        axes.set_yscale("log")
        return
    smallest, largest = min(positive, default=1.0), max(positive, default=1.0)
    axes.set_yscale("symlog", linthresh=smallest, linscale=0.4)
    axes.set_ylim(-0.4 * smallest, 2.5 * largest)
    ticks = [0.0, *(10.0**p for p in range(int(np.floor(np.log10(smallest))), int(np.ceil(np.log10(largest))) + 1))]
    ticks = [t for t in ticks if t == 0 or smallest <= t <= 2.5 * largest]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()


def _name_designs(axes, front, of: Callable, baselines) -> None:
    """Entries and format beside a few designs, spread over the front, below left of them where the chart is empty."""
    for at in np.unique(np.linspace(0, len(front) - 1, min(6, len(front))).round().astype(int)):
        design = front[at]
        text = f"{design.choice.entries} \u00d7 {design.choice.coefficients}" + (
            " half" if design.choice.symmetry else ""
        )
        text += ", shared" if design.choice.share == "all" else ""
        axes.annotate(
            text,
            (of(design.cost), design.error),
            (-5, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=7.5,
            color=BLUE,
        )
    for baseline in baselines:
        if baseline.kind == "direct":
            text = f"{baseline.cost.entries} \u00d7 {baseline.coefficients}"
            axes.annotate(
                text,
                (of(baseline.cost), baseline.error),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=RED,
            )
