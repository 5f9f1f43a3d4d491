"""Pictures: a table beside its function with the error at every input, and the front of an exploration. matplotlib is imported when used."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lutc import formats
from lutc.designs import OBJECTIVES
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.hardware import FIGURES
from lutc.samples import Inputs
from lutc.table import Lines, Table
from lutc.tablefile import TableSet

# Okabe and Ito's colours, told apart by colour-blind readers and in print
BLUE, ORANGE, GREEN, RED, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999", "#333333"
_BAND, _RULE = "#D0D0D0", "#DDDDDD"
_STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.linewidth": 0.6, "grid.color": "#E6E6E6", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "axes.unicode_minus": True, "svg.hashsalt": "lutc",
}  # fmt: skip
_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
_DENSE = 2001  # points of a drawn function
_TICKS = {-1e4: "$-10^4$", -100: "$-$100", -1: "$-$1", -0.01: "$-$0.01", 0: "0", 0.01: "0.01", 1: "1", 100: "100", 1e4: "$10^4$"}
_FEW = 40  # codes that are drawn one by one
_NEAR = 2.0**-8  # float inputs closer to 0 share the linear middle of the axis
_FLOOR = 2.0**-14  # relative errors are relative to max(|f|, 2**-14)


@contextmanager
def new_figure(width: float, height: float):
    """A figure of its own, without pyplot's global state, in the pictures' style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure, path: str | os.PathLike) -> None:
    """Write the picture in one step; the suffix chooses .png, .svg or .pdf. The same figure gives the same bytes."""
    import matplotlib

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise LutcError(f"pictures are .png, .svg or .pdf files; given {path.name!r}")
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": _STYLE["svg.hashsalt"]}):
        figure.savefig(data, format=suffix[1:], dpi=130 if figure.get_figwidth() < 8 else 100, metadata=_METADATA[suffix])
    atomic_write(path, data.getvalue())


# --- tables ----------------------------------------------------------------------------------------------------------------------------


def table_figure(tables: TableSet, fn: Callable, keys: Sequence[str] | None = None):
    """Function, table and its breakpoints above, the error at every input below; a column for each key, all keys by default.

    fn: the exact function, float64 in and out. LutcError for a key that is not there.
    """
    keys = list(tables) if keys is None else [str(key) for key in keys]
    if not keys:
        raise LutcError("there is no table to draw; leave --key out to draw all")
    panels = [_Panel.of(tables, fn, key) for key in keys]
    columns = min(len(panels), 3 if len(panels) in (5, 6, 9) else 4)
    rows = -(-len(panels) // columns)
    floats = any(panel.inputs is None for panel in panels)
    width, height = (7.2, 5.0 + 1.6 * floats) if len(panels) == 1 else (1.0 + 2.9 * columns, (3.6 + 1.4 * floats) * rows)
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
    return figure


@dataclass(frozen=True)
class _Panel:
    """A table to draw. x: inputs in the range, ascending; exact, got: the function and the table there; cuts: breakpoints between them."""

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
            raise LutcError(f"table '{key}' has no input at which both it and the function are finite: there is nothing to draw")
        title = key
        if inputs is not None:
            title = f"scale $2^{{{-inputs.power}}}$" if inputs.power is not None else f"scale {inputs.scale:.4g}"
            title += f", zero point {inputs.zero_point}" if inputs.zero_point else ""
        return cls(_name(tables), title, table, fn, inputs, (lo, hi), x[use], exact[use], got[use], _breakpoints(table, lo, hi))


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
    """Where one segment ends and the next begins, in x, within (lo, hi); pieces of cells are too many to draw, their cut points are not."""
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
    lower.set_title(f"mean squared {np.mean(error**2):.2e}, worst {_number(error[worst])}{where}", fontsize=8, color=INK, pad=3)


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
    axes.plot(dense, np.where(np.isfinite(exact), exact, np.nan), color=_BAND, linewidth=5.0, solid_capstyle="round", label=panel.name)
    # a segment at a time: a table may jump at its breakpoints
    for a, b in zip([lo, *cuts], [*cuts, hi]):
        part = np.append(dense[(dense > a) & (dense < b)], b)
        axes.plot(part, table(part), color=BLUE, linewidth=1.3, label="table" if a == lo else None)
    if panel.x.size <= _FEW:
        axes.plot(panel.x, panel.got, ".", color=BLUE, markersize=5.0, label="input code")
    axes.plot(cuts, table(cuts), "o", color="white", markeredgecolor=BLUE, markersize=4.2, markeredgewidth=1.1, label="breakpoint")


def _rules(axes, cuts: np.ndarray) -> None:
    for cut in cuts:
        axes.axvline(cut, color=_RULE, linewidth=0.7, zorder=0)


def _draw_floats(cell, panel: _Panel, title: str, largest: float, first: bool, alone: bool) -> None:
    """A float table over all fp16 inputs: x logarithmic, to both sides of 0 if there are inputs; absolute and relative error."""
    x, error, cuts = panel.x, np.abs(panel.error), panel.cuts
    pole = [] if 0.0 in x else [int(np.searchsorted(x, 0.0))]  # nothing joins the two sides of a pole
    curve = [np.insert(values, pole, np.nan) for values in (x, panel.exact, panel.got)]
    upper, middle, lower = cell.subplots(3, 1, sharex=True, height_ratios=(1.7, 1.0, 1.0))
    upper.plot(curve[0], curve[1], color=_BAND, linewidth=5.0, solid_capstyle="round", label=panel.name, rasterized=True)
    upper.plot(curve[0], curve[2], color=BLUE, linewidth=1.2, label="table", rasterized=True)
    if cuts.size:
        upper.plot(cuts, panel.table(cuts), "o", color="white", markeredgecolor=BLUE, markersize=4.2, markeredgewidth=1.1, label="cut point")
    upper.set_yscale("symlog", linthresh=1.0)
    upper.set_title(title)
    for axes, values, what in ((middle, error, "absolute"), (lower, error / np.maximum(np.abs(panel.exact), _FLOOR), "relative")):
        axes.plot(x, np.where(values > 0, values, np.nan), ".", color=BLUE, markersize=1.0, rasterized=True)
        axes.set_yscale("log")
        worst = int(np.argmax(values))
        axes.set_ylim(max(1e-8, values[worst] * 1e-6), 3.0 * max(values[worst], 1e-7))
        where = f" at x = {_number(x[worst])}" if alone else ""
        axes.set_title(f"{what}: mean {values.mean():.2e}, worst {values[worst]:.2e}{where}", fontsize=8, color=INK, pad=3)
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
    lower.set_xlabel(("x, all fp16 values, logarithmic" + ("" if positive else " to both sides of 0")) if alone else "x (fp16 values)")
    if first:
        upper.set_ylabel("value (logarithmic beyond \u00b11)" if alone else "value")


# --- explorations ----------------------------------------------------------------------------------------------------------------------

_KINDS = {
    "direct": (RED, "s", "direct table"),
    "uniform": (ORANGE, "^", "equal segments"),
    "shared": (GREEN, "D", "one set for all scales"),
}


def front_figure(exploration):
    """Error against each cost minimised, logarithmic: the front with some designs named, and the baselines. A panel for each cost."""
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
            axes.plot(*at, marker, color=color, markersize=5.0, markeredgecolor="white", markeredgewidth=0.5, label=text, zorder=3)
    x, y = np.array([of(d.cost) for d in front], float), np.array([d.error for d in front])
    order = np.lexsort((y, x))
    best = order[np.append(True, np.minimum.accumulate(y[order])[:-1] > y[order][1:])]  # what this one cost alone would leave
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
        text = f"{design.choice.entries} \u00d7 {design.choice.coefficients}" + (" half" if design.choice.symmetry else "")
        text += ", shared" if design.choice.share == "all" else ""
        axes.annotate(text, (of(design.cost), design.error), (-5, -4), textcoords="offset points", ha="right", va="top", fontsize=7.5, color=BLUE)
    for baseline in baselines:
        if baseline.kind == "direct":
            text = f"{baseline.cost.entries} \u00d7 {baseline.coefficients}"
            axes.annotate(text, (of(baseline.cost), baseline.error), (0, 6), textcoords="offset points", ha="center", fontsize=7.5, color=RED)
