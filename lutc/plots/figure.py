"""The style of pictures, and writing them. matplotlib is imported when used."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lutc.errors import LutcError
from lutc.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers and in print
BLUE, ORANGE, GREEN, RED, GREY, INK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999", "#333333"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.linewidth": 0.6,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.unicode_minus": True,
    "svg.hashsalt": "lutc",
}
_METADATA = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of its own, without pyplot's global state, in the pictures' style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "backend": "agg"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the picture in one step; the suffix chooses .png, .svg or .pdf. The same figure gives the same bytes."""
    import matplotlib

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise LutcError(f"pictures are .png, .svg or .pdf files; given {path.name!r}")
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": _STYLE["svg.hashsalt"]}):
        figure.savefig(
            data, format=suffix[1:], dpi=130 if figure.get_figwidth() < 8 else 100, metadata=_METADATA[suffix]
        )
    atomic_write(path, data.getvalue())
