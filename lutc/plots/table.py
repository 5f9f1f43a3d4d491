"""A picture of a table: beside its function, with the error at every input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.measures import RELATIVE_FLOOR
from lutc.plots.figure import BLUE, GREY, INK, new_figure
from lutc.table.bodies import Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND, _RULE = "#D0D0D0", "#DDDDDD"
_DENSE = 2001  # points of a drawn function
_TICKS = {
    -1e4: "$-10^4$",
    -100: "$-$100",
    -1: "$-$1",
    -0.01: "$-$0.01",
    0: "0",
    0.01: "0.01",
    1: "1",
    100: "100",
    1e4: "$10^4$",
}
_FEW = 40  # codes that are drawn one by one
_NEAR = 2.0**-8  # float inputs closer to 0 share the linear middle of the axis


def table_figure(tables: TableSet, fn: Callable, keys: Sequence[str] | None = None) -> Figure:
    """Function, table and its breakpoints above, the error at every input below; a column for each key, all keys by
    default.

    fn: the exact function, float64 in and out. LutcError for a key that is not there.
    """
    keys = list(tables) if keys is None else [str(key) for key in keys]
    if not keys:
        raise LutcError("there is no table to draw; leave `key` out to draw all")
    panels = [_Panel.of(tables, fn, key) for key in keys]
    columns = min(len(panels), 3 if len(panels) in (5, 6, 9) else 4)
    rows = -(-len(panels) // columns)
    floats = any(panel.inputs is None for panel in panels)
    width, height = (
        (7.2, 5.0 + 1.6 * floats) if len(panels) == 1 else (1.0 + 2.9 * columns, (3.6 + 1.4 * floats) * rows)
    )
    largest = max((np.abs(panel.error).max(initial=0.0) for panel in panels), default=0.0)
    with new_figure(width, height) as figure:
        if len(panels) > 1:
            figure.suptitle(_title(tables, keys, panels), x=0.01, ha="left", fontsize=11)
        for at, (cell, panel) in enumerate(zip(figure.subfigures(rows, columns, squeeze=False).ravel(), panels)):
            title = _title(tables, keys, panels) if len(panels) == 1 else panel.title
            draw = _draw_floats if panel.inputs is None else _draw_codes
            draw(cell, panel, title, largest, at % columns == 0, len(panels) == 1)
            if at == 0:
                cell.axes[0].legend(loc="best", fontsize=8, handlelength=1.6, labelspacing=0.3)
        if floats:
            _on_the_same_axes([cell.axes for cell in figure.subfigs])
    return figure


@dataclass(frozen=True)
class _Panel:
    """A table to draw. x: inputs in the range, ascending; exact, got: the function and the table there; cuts:
    breakpoints between them.
    """

    name: str
    title: str
    table: Table
    fn: Callable
    inputs: Inputs | None
    range: tuple[float, float]
    x: np.ndarray
    exact: np.ndarray
    got: np.ndarray
    cuts: np.ndarray

    @property
    def error(self) -> np.ndarray:
        return self.got - self.exact

    @classmethod
    def of(cls, tables: TableSet, fn: Callable, key: str) -> _Panel:
        table, inputs = tables[key], tables.inputs.get(key)
        x = formats.get("fp16").values() if inputs is None else inputs.x()
        lo, hi = (x[0], x[-1]) if inputs is None or tables.range is None else tables.range
        x = x[(x >= lo) & (x <= hi)]
        with np.errstate(all="ignore"):
            exact, got = np.asarray(fn(x), np.float64), np.asarray(table(x), np.float64)
        largest = formats.get("fp16").max if inputs is None else np.inf
        use = np.isfinite(exact) & np.isfinite(got) & (np.abs(exact) <= largest)
        if not use.any():
            raise LutcError(
                f"table '{key}' has no input at which both it and the function are finite: there is nothing to draw"
            )
        title = key
        if inputs is not None:
            title = f"scale $2^{{{-inputs.power}}}$" if inputs.power is not None else f"scale {inputs.scale:.4g}"
            title += f", zero point {inputs.zero_point}" if inputs.zero_point else ""
        return cls(
            _name(tables), title, table, fn, inputs, (lo, hi), x[use], exact[use], got[use], _breakpoints(table, lo, hi)
        )


def _on_the_same_axes(panels: Sequence[Sequence[Axes]]) -> None:
    """Let the axes of all panels that show the same quantity reach as far, so that they can be compared."""
    for same in zip(*panels, strict=True):
        for ends, widen in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
            lows, highs = zip(*(getattr(axes, ends)() for axes in same), strict=True)
            for axes in same:
                getattr(axes, widen)(min(lows), max(highs))


def _name(tables: TableSet) -> str:
    return tables.function if tables.function and ":" not in tables.function else tables.name


def _title(tables: TableSet, keys: Sequence[str], panels: Sequence[_Panel]) -> str:
    """What all panels have in common, and the key of a single one."""
    table, inputs = max((panel.table for panel in panels), key=lambda t: t.entries), panels[0].inputs
    alone = len(panels) == 1
    parts = [_name(tables), f"{table.entries} {'entries' if table.body.payload == 'lines' else 'values'}"]
    if alone and inputs is None:
        parts[-1] += f" in {panels[0].title}"
    if table.prologue is not None:
        parts.append("one half stored" if table.prologue.kind == "abs" else f"reduced by {table.prologue.kind}")
    parts.append("float inputs" if inputs is None else f"int{inputs.bits} inputs")
    return ", ".join([*parts, *([panels[0].title] if alone and inputs is not None else [])])


def _breakpoints(table: Table, lo: float, hi: float) -> np.ndarray:
    """Where one segment ends and the next begins, in x, within (lo, hi); pieces of cells are too many to draw, their
    cut points are not.
    """
    if isinstance(table.body, Lines):
        points = table.body.breakpoints
    else:
        points = getattr(table.body, "cut_points", np.zeros(0))
    if table.prologue is not None:
        points = np.concatenate([-points[::-1], [0.0], points]) if table.prologue.kind == "abs" else np.zeros(0)
    return points[(points > lo) & (points < hi)]


def _draw_codes(cell, panel: _Panel, title: str, largest: float, first: bool, alone: bool) -> None:
    """A table over codes: the error at every code as a stem, up to `largest` (the same in all panels)."""
    x, error = panel.x, panel.error
    upper, lower = cell.subplots(2, 1, sharex=True, height_ratios=(1.7, 1.0))
    _curves(upper, panel)
    upper.set_title(title)
    unit, factor = _unit(largest)
    lower.vlines(x, 0.0, error * factor, color=BLUE, linewidth=max(0.5, min(1.6, 130.0 / x.size)))
    lower.plot(x, error * factor, ".", color=BLUE, markersize=max(1.0, min(4.0, 330.0 / x.size)))
    _rules(lower, panel.cuts)
    lower.axhline(0.0, color=GREY, linewidth=0.6)
    limit = 1.2 * (largest or 1.0) * factor
    lower.set_ylim(-limit, limit)
    lower.set_xlim(*_margins(*panel.range))
    lower.set_xlabel("x")
    if first:
        upper.set_ylabel("value")
        lower.set_ylabel(f"table − function{unit}")
    worst = int(np.argmax(np.abs(error)))
    where = f" at x = {_number(x[worst])}" if alone else ""
    lower.set_title(
        f"mean squared {np.mean(error**2):.2e}, worst {_number(error[worst])}{where}", fontsize=8, color=INK, pad=3
    )


def _margins(lo: float, hi: float) -> tuple[float, float]:
    return lo - 0.04 * (hi - lo), hi + 0.04 * (hi - lo)


def _number(value: float) -> str:
    """Four digits with a real minus sign."""
    return f"{value:.4g}".replace("-", "\u2212")


def _unit(largest: float) -> tuple[str, float]:
    """Axis unit and factor for errors up to `largest`."""
    power = 3 * int(np.ceil(-np.log10(largest) / 3)) if 0 < largest < 1.0 else 0
    return (f" ($10^{{{-power}}}$)", 10.0**power) if power else ("", 1.0)


def _curves(axes, panel: _Panel) -> None:
    lo, hi = panel.range
    dense = np.linspace(lo, hi, _DENSE)
    with np.errstate(all="ignore"):
        exact = np.asarray(panel.fn(dense), np.float64)
    table, cuts = panel.table, panel.cuts
    _rules(axes, cuts)
    axes.plot(
        dense,
        np.where(np.isfinite(exact), exact, np.nan),
        color=_BAND,
        linewidth=5.0,
        solid_capstyle="round",
        label=panel.name,
    )
    # a segment at a time: a table may jump at its breakpoints
    for a, b in zip([lo, *cuts], [*cuts, hi]):
        part = np.append(dense[(dense > a) & (dense < b)], b)
        axes.plot(part, table(part), color=BLUE, linewidth=1.3, label="table" if a == lo else None)
    if panel.x.size <= _FEW:
        axes.plot(panel.x, panel.got, ".", color=BLUE, markersize=5.0, label="input code")
    axes.plot(
        cuts,
        table(cuts),
        "o",
        color="white",
        markeredgecolor=BLUE,
        markersize=4.2,
        markeredgewidth=1.1,
        label="breakpoint",
    )


def _rules(axes, cuts: np.ndarray) -> None:
    for cut in cuts:
        axes.axvline(cut, color=_RULE, linewidth=0.7, zorder=0)


def _draw_floats(cell, panel: _Panel, title: str, largest: float, first: bool, alone: bool) -> None:
    """A float table over all fp16 inputs: x logarithmic, to both sides of 0 if there are inputs; absolute and relative
    error.
    """
    x, error, cuts = panel.x, np.abs(panel.error), panel.cuts
    pole = [] if 0.0 in x else [int(np.searchsorted(x, 0.0))]  # nothing joins the two sides of a pole
    curve = [np.insert(values, pole, np.nan) for values in (x, panel.exact, panel.got)]
    upper, middle, lower = cell.subplots(3, 1, sharex=True, height_ratios=(1.7, 1.0, 1.0))
    upper.plot(
        curve[0], curve[1], color=_BAND, linewidth=5.0, solid_capstyle="round", label=panel.name, rasterized=True
    )
    upper.plot(curve[0], curve[2], color=BLUE, linewidth=1.2, label="table", rasterized=True)
    if cuts.size:
        upper.plot(
            cuts,
            panel.table(cuts),
            "o",
            color="white",
            markeredgecolor=BLUE,
            markersize=4.2,
            markeredgewidth=1.1,
            label="breakpoint" if panel.table.body.payload == "lines" else "cut point",
        )
    upper.set_yscale("symlog", linthresh=1.0)
    upper.set_title(title)
    for axes, values, what in (
        (middle, error, "absolute"),
        (lower, error / np.maximum(np.abs(panel.exact), RELATIVE_FLOOR), "relative"),
    ):
        axes.plot(x, np.where(values > 0, values, np.nan), ".", color=BLUE, markersize=1.0, rasterized=True)
        axes.set_yscale("log")
        worst = int(np.argmax(values))
        axes.set_ylim(max(1e-8, values[worst] * 1e-6), 3.0 * max(values[worst], 1e-7))
        where = f" at x = {_number(x[worst])}" if alone else ""
        axes.set_title(
            f"{what}: mean {values.mean():.2e}, worst {values[worst]:.2e}{where}", fontsize=8, color=INK, pad=3
        )
        if first:
            axes.set_ylabel(f"{what} error")
    positive = x[0] >= 0
    for axes in (upper, middle, lower):
        _rules(axes, cuts[cuts > 0] if positive else cuts)
        axes.set_xscale("log") if positive else axes.set_xscale("symlog", linthresh=_NEAR)
    lower.set_xlim(x[x > 0][0] if positive else x[0], x[-1])
    if not positive:
        ticks = {t: label for t, label in _TICKS.items() if x[0] <= t <= x[-1] and (alone or abs(t) not in (0.01, 100))}
        lower.set_xticks(list(ticks), list(ticks.values()))
    lower.minorticks_off()
    lower.set_xlabel(
        ("x, all fp16 values, logarithmic" + ("" if positive else " to both sides of 0"))
        if alone
        else "x (fp16 values)"
    )
    if first:
        upper.set_ylabel("value (logarithmic beyond \u00b11)" if alone else "value")
