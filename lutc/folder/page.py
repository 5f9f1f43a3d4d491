"""`report.html`: one page that needs nothing but itself: the model's layers down the side, every place with its table
drawn over the histogram of its inputs. No network, no library; it can be sorted, and read on a phone.
"""

from __future__ import annotations

import html
import re

import numpy as np

from lutc import functions
from lutc.calibration.file import Calibration, Layer
from lutc.folder.jobs import seen
from lutc.folder.manifest import Entry, Folder

REPORT = "report.html"
_WIDE, _HIGH = 240, 84  # of a drawing, in its own units
_BARS, _POINTS = 48, 161
_TAILS = 0.0005  # share of inputs on either side that a drawing leaves out
_COLUMNS = ("place", "of", "table", "entries", "error", "codes alone", "share", "outside", "bytes", "KL of its layer")

_STYLE = """
:root{--ink:#1c2430;--soft:#5d6b7c;--line:#dde3ea;--paper:#fff;--bar:#c9d7ea;--table:#c2410c;--exact:#2563a8}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf2;--soft:#97a5b8;--line:#2e3846;--paper:#151b24;--bar:#34485f;
--table:#fb923c;--exact:#7cb7f5}}
*{box-sizing:border-box}body{margin:0;padding:1rem;max-width:76rem;margin-inline:auto;color:var(--ink);
background:var(--paper);font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.1rem;margin:1.8rem 0 .4rem}p{margin:.3rem 0}
.soft{color:var(--soft)}dl{display:flex;flex-wrap:wrap;gap:.3rem 2rem;margin:.8rem 0}
dt{color:var(--soft);font-size:.8rem}
dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:middle}
td{white-space:nowrap}th:first-child,td:first-child,#places td:nth-child(3){white-space:normal}
th:first-child,td:first-child{text-align:left;overflow-wrap:anywhere}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid var(--exact)}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
.bar{display:inline-block;height:.7em;background:var(--bar);vertical-align:middle;margin-right:.4em}
svg{display:block;width:15rem;max-width:100%;height:auto}svg rect{fill:var(--bar)}
svg path{fill:none;stroke-width:1.4}svg .e{stroke:var(--exact);stroke-dasharray:3 2}svg .t{stroke:var(--table)}
svg text{fill:var(--soft);font-size:9px}.key b{font-weight:600}.key .t{color:var(--table)}.key .e{color:var(--exact)}
@media (max-width:46rem){thead{position:absolute;left:-99rem}#places tr{display:grid;grid-template-columns:1fr 1fr;
border-bottom:2px solid var(--line);padding:.5rem 0}#places td{border:0;text-align:left;padding:.1rem .2rem}
#places td:first-child,#places td.draw{grid-column:1/-1}#places td:first-child{font-weight:600}
#places td[data-name]::before{content:attr(data-name) " ";color:var(--soft);font-size:.8rem}svg{width:100%}
#layers td,#layers th{padding:.2rem}#layers .bar{display:none}.pick{display:block!important}}
.pick{display:none;margin:.4rem 0}
"""

_SCRIPT = """
function order(table,at,down){const body=table.tBodies[0],rows=[...body.rows];
const of=r=>{const v=r.cells[at].dataset.value;return v===""?null:isNaN(v)?v:+v};
rows.sort((a,b)=>{const x=of(a),y=of(b);if(x===null||y===null)return (x===null)-(y===null);
const c=typeof x==="number"&&typeof y==="number"?x-y:String(x).localeCompare(String(y));return down?-c:c});
rows.forEach(r=>body.append(r));[...table.tHead.rows[0].cells].forEach((h,i)=>h.setAttribute("aria-sort",
i===at?(down?"descending":"ascending"):"none"))}
for(const table of document.querySelectorAll("table"))[...table.tHead.rows[0].cells].forEach((head,at)=>{
const button=head.querySelector("button");if(button)button.onclick=()=>order(table,at,
head.getAttribute("aria-sort")!=="descending")});
const pick=document.getElementById("pick");if(pick)pick.onchange=()=>{const [at,down]=pick.value.split(" ");
order(document.getElementById("places"),+at,down==="1")};
"""


def page(folder: Folder, calibration: Calibration) -> str:
    """The page's text."""
    cost, layers = folder.cost, folder.cost.get("layers", [])
    kl = {layer["name"]: layer["kl"] for layer in layers}
    rows = []
    for index, entry in enumerate(folder.entries):
        table = folder.tables[entry.table][entry.key]
        rows.append(
            _row(index, entry, _layer_of(entry.path, kl), _drawing(entry, calibration.layers[entry.path], table))
        )
    name, tokens = html.escape(folder.model["name"]), folder.data.get("tokens") or folder.data.get("examples")
    facts = [("places", len(folder.entries)), ("tables", len(folder.tables)), ("bytes of tables", f"{folder.bytes:,}")]
    facts += [("calibrated on", f"{tokens:,} tokens" if folder.data.get("tokens") else f"{tokens:,} examples")]
    for key, title in (("kl", "KL, nats a token"), ("perplexity", "perplexity"), ("exact", "exact perplexity")):
        if cost.get(key) is not None:
            facts.append((title, f"{cost[key]:.4g}"))
    if cost.get("cosine") is not None:
        facts.append(("mean cosine", f"{cost['cosine']:.6f}"))
    told = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in facts)
    left = "".join(f"<li>{html.escape(entry)}</li>" for entry in folder.left)
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button>{title}</button></th>' for title in _COLUMNS
    ) + '<th scope="col">inputs and table</th>'  # fmt: skip
    options = "".join(
        f'<option value="{at} {down}">{_COLUMNS[at]}, {"largest" if down else "first"} first</option>'
        for at, down in ((0, 0), (4, 1), (6, 1), (7, 1), (8, 1), (9, 1))
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Tables of {name}</title><style>{_STYLE}</style>
<h1>Tables of {name}</h1><dl>{told}</dl>
{_layers(layers)}
<h2>Places</h2><p class="key soft">Each drawing: how often inputs occur (bars), <b class="e">the exact function</b>,
<b class="t">its table</b>. Error: mean squared, as the model sees it; codes alone: the exact function on the same
codes.</p>
<label class="pick">Sort by <select id="pick">{options}</select></label>
<table id="places"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>
{f"<h2>Left exact</h2><ul>{left}</ul>" if left else ""}
<script>{_SCRIPT}</script></html>
"""


def _layer_of(path: str, kl: dict) -> float | None:
    """KL of the layer that a place lies in, where that was measured."""
    inside = [name for name in kl if path == name or path.startswith(f"{name}.")]
    return kl[max(inside, key=len)] if inside else kl.get("the rest")


def _layers(layers: list[dict]) -> str:
    """A line for each layer of the model: what its tables alone do to the model, and the error of its output."""
    if not layers:
        return ""
    named = [("kl", "KL with this layer alone"), ("own", "error it adds"), ("error", "error behind it")]
    shown = [(key, title) for key, title in named if any(layer.get(key) is not None for layer in layers)]
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button>{title}</button></th>' for _, title in [("", "layer"), *shown]
    )
    rows = []
    for index, layer in enumerate(layers):
        cells = [f'<td data-value="{index}">{html.escape(layer["name"])}</td>']
        for key, _ in shown:
            largest = max((abs(other[key]) for other in layers if other.get(key) is not None), default=0) or 1
            value = layer.get(key)
            wide = 0 if value is None else 6 * abs(value) / largest
            cells.append(
                f'<td data-value="{"" if value is None else value}"><span class="bar" style="width:{wide:.2f}rem">'
                f"</span>{_figure(value)}</td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "".join(rows)
    return f'<h2>Layers</h2><table id="layers"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _row(index: int, entry: Entry, kl: float | None, drawing: str) -> str:
    codes = entry.kind if entry.inputs is None else f"int{entry.bits} at {entry.inputs.written}"
    cells = [
        (index, html.escape(entry.path)),
        (entry.function, html.escape(entry.function)),
        (entry.kind, html.escape(codes)),
        (entry.entries, entry.entries),
        (entry.mean_squared, _figure(entry.mean_squared)),
        (entry.exact_on_codes, _figure(entry.exact_on_codes)),
        (entry.share, f"{100 * entry.share:.2f} %"),
        (entry.outside, f"{100 * entry.outside:.3g} %"),
        (entry.bytes, entry.bytes),
        (kl, _figure(kl)),
    ]
    made = "".join(
        f'<td data-value="{"" if value is None else value}"{f" data-name={chr(34)}{name}{chr(34)}" if at else ""}>'
        f"{text}</td>"
        for at, ((value, text), name) in enumerate(zip(cells, _COLUMNS, strict=True))
    )
    return f'<tr>{made}<td class="draw">{drawing}</td></tr>'


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _drawing(entry: Entry, layer: Layer, table) -> str:
    """Histogram, function and table over what the place is fed with."""
    histogram, fn = seen(layer), functions.get(layer.function)
    if not histogram.count:
        return '<span class="soft">never reached</span>'
    lo, hi = (float(end) for end in histogram.quantile([_TAILS, 1 - _TAILS]))
    if not hi > lo:
        lo, hi = lo - 1, hi + 1
    edges = np.linspace(lo, hi, _BARS + 1)
    x, n = histogram.points
    counts = np.histogram(x, edges, weights=n)[0]
    top = np.sqrt(counts / max(counts.max(), 1)) * (_HIGH - 14)  # square roots: rare inputs stay to be seen
    wide = _WIDE / _BARS
    bars = "".join(
        f'<rect x="{i * wide:.1f}" y="{_HIGH - 10 - h:.1f}" width="{wide - 0.5:.1f}" height="{h:.1f}"/>'
        for i, h in enumerate(top)
        if h > 0.05
    )
    at = np.linspace(lo, hi, _POINTS)
    with np.errstate(all="ignore"):
        given = at if entry.inputs is None else entry.inputs.scale * (
            entry.inputs.quantise(at) - entry.inputs.zero_point
        )  # fmt: skip
        curves = np.asarray(fn(at), np.float64), np.asarray(table(given), np.float64)
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    paths = "".join(
        f'<path class="{name}" d="{_path(curve, low, high)}"/>' for name, curve in zip("et", curves, strict=True)
    )
    label = f"{entry.path}: inputs from {lo:.3g} to {hi:.3g}, {layer.function} from {low:.3g} to {high:.3g}"
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{html.escape(label, quote=True)}">{bars}{paths}'
        f'<text x="1" y="{_HIGH - 1}">{lo:.3g}</text><text x="{_WIDE - 1}" y="{_HIGH - 1}" text-anchor="end">{hi:.3g}'
        "</text></svg>"
    )


def _path(curve: np.ndarray, low: float, high: float) -> str:
    """SVG's line through the finite values."""
    y = (_HIGH - 12) - (curve - low) / ((high - low) or 1.0) * (_HIGH - 18)
    points = [f"{i * _WIDE / (_POINTS - 1):.1f},{v:.1f}" if np.isfinite(v) else "" for i, v in enumerate(y)]
    return re.sub(r"L(?=L|$)", "", "M" + "L".join(p for p in points if p))
