"""The picture of a sweep over T-MLP settings: error against cost."""

from __future__ import annotations

import itertools

from lutc import plots
from lutc.taylor.sweeping import Point


def plot(points: list[Point], path: str) -> None:
    """Draw error over multiply-adds, megabytes and measured speed at the smallest batch to `path` (PNG, SVG or PDF by
    its ending).
    """
    from matplotlib.ticker import LogLocator, NullLocator

    exact = next(point for point in points if point.name == "exact")
    batch = min(exact.speedup)
    costs = {
        "million multiply-adds an input": lambda point: point.multiply_adds / 1e6,
        "megabytes": lambda point: point.bytes / 1e6,
        f"times faster at batch {batch}, measured": lambda point: point.speedup[batch],
    }
    lines: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.error):
        if point.error > 0:
            tables = point.name.startswith("k=")
            lines.setdefault(point.name.partition(" ")[2] if tables else point.name, []).append(point)
    styles = itertools.cycle(itertools.product("osD^v", (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.INK)))
    with plots.new_figure(12, 4.4) as figure:
        panels = figure.subplots(1, len(costs), sharey=True)
        for (name, line), (marker, colour) in zip(lines.items(), styles):
            for axes, cost in zip(panels, costs.values()):
                axes.plot(
                    [cost(point) for point in line],
                    [point.error for point in line],
                    marker + "-",
                    color=colour,
                    ms=4,
                    lw=1,
                    label=name,
                )
                for point in line if len(line) > 1 else ():
                    axes.annotate(
                        point.name.split()[0],
                        (cost(point), point.error),
                        (4, 4),
                        textcoords="offset points",
                        fontsize=7,
                        color=colour,
                    )
        for axes, (label, cost) in zip(panels, costs.items()):
            axes.axvline(cost(exact), ls=":", color=plots.GREY, label="exact")
            axes.set(xlabel=label, xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("relative squared error, held out")
        panels[0].legend(fontsize=7)
        plots.save(figure, path)
