"""JSON in and out: round trips, files of GQA-LUT and NN-LUT, an emulation of GQA-LUT's runtime, and whatever else a
file may hold.
"""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import certify, functions
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.table import table_set
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

FINITE = st.floats(-100, 100, allow_subnormal=False)


@pytest.fixture(scope="module")
def gelu() -> TableSet:
    return pipeline.compile("gelu", 8, out=Inputs(8, 2.0**-4))


def same(first: Table, second: Table) -> bool:
    assert type(first.body) is type(second.body)
    for name in first.body.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first.body, name), getattr(second.body, name))
    return (first.prologue, first.left, first.right) == (second.prologue, second.left, second.right)


# round trips

PROLOGUES = st.one_of(
    st.none(),
    st.builds(AbsPrologue, st.tuples(FINITE, FINITE, FINITE), st.tuples(FINITE, FINITE, FINITE)),
    st.builds(ExponentPrologue, st.sampled_from((1, 2)), st.integers(-2, 2), FINITE, st.booleans()),
    st.builds(PeriodPrologue, st.floats(0.1, 10), st.sampled_from((0, 1))),
)


@st.composite
def bodies(draw):
    kind = draw(st.sampled_from(("lines", "cells", "direct")))
    if kind == "direct":
        return Direct(draw(st.lists(FINITE, min_size=16, max_size=16)), 4, 0.25, draw(st.integers(-8, 7)))
    points = sorted(draw(st.sets(st.integers(-400, 400), min_size=2, max_size=6)))
    points = [p / 32 for p in points]
    if kind == "cells":
        pieces = tuple(draw(st.lists(st.sampled_from((1, 2, 4)), min_size=len(points) - 1, max_size=len(points) - 1)))
        return Cells(
            points,
            pieces,
            draw(st.lists(st.floats(-9, 9, width=32), min_size=sum(pieces) + 1, max_size=sum(pieces) + 1)),
        )
    values = st.lists(st.integers(-128, 127).map(lambda c: c / 64), min_size=len(points) + 1, max_size=len(points) + 1)
    return Lines(points, draw(values), draw(values))


@st.composite
def table_sets(draw):
    body, prologue = draw(bodies()), draw(PROLOGUES)
    left = right = None
    inputs = {}
    if isinstance(body, Lines):
        left = Line(float(body.slopes[0]), float(body.intercepts[0])) if draw(st.booleans()) else None
        key, coefficients = "4", "q1.6"
        inputs = {"4": Inputs(8, 2.0**-4, draw(st.integers(-9, 9)))}
    elif isinstance(body, Direct):
        key, coefficients, inputs = "k", "fp32", {"k": Inputs(4, 0.25, body.zero_point)}
        body = Direct(np.float32(body.values), 4, 0.25, body.zero_point)
    else:
        key, coefficients = "fp32", "fp32"
        right = Line(draw(FINITE), draw(FINITE)) if draw(st.booleans()) else None
    names = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(lambda name: name != "lutc")
    plain = st.none() | st.booleans() | FINITE | st.integers() | names
    record = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
    meta = {"note": draw(record), "range": [-1.0, 2.5]}
    return TableSet(
        draw(names), {key: Table(body, prologue, left, right, coefficients)}, inputs, draw(st.none() | names), meta
    )


@given(table_sets())
def test_round_trip(tables):
    """Text to set to text is the same text; every number comes back to the bit."""
    text = tables.dumps()
    again = table_set.loads(text)
    assert again.dumps() == text
    assert (
        list(again) == list(tables)
        and again.name == tables.name
        and again.function == tables.function
        and again.inputs == tables.inputs
    )
    assert all(same(again[key], table) for key, table in tables.items())
    assert json.loads(text)["lutc"]["note"] == again.meta["note"]


def test_round_trip_of_exponent_tables():
    bits = [Exponents.OUTSIDE] * 62
    bits[31:34] = [0, Exponents.JOINED, 1]
    body = Exponents("fp16", tuple(bits), np.arange(4.0))
    tables = TableSet("f", {"fp32": Table(body, None, Line(0.0, 0.0), None)})
    again = table_set.loads(tables.dumps())
    assert same(again["fp32"], tables["fp32"]) and again.dumps() == tables.dumps()


OPTIONS = {
    "plain": {},
    "symmetry": {"symmetry": True},
    "shared": {"share": "all"},
    "bf16": {"inputs": "bf16"},
    "greedy": {"search": "greedy", "max_error": "0.02"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_compiled_files(tmp_path, options):
    options = OPTIONS[options]
    tables = pipeline.compile("silu", 8, **options)
    path = tmp_path / "silu_8.json"
    tables.save(path)
    text = path.read_text()
    assert table_set.read(path).dumps() == text == pipeline.compile("silu", 8, **options).dumps()
    assert not any(unwanted in text for unwanted in ("NaN", "Infinity", " -0.0,"))
    again = table_set.read(path)
    assert all(same(again[key], table) for key, table in tables.items())
    assert certify.check(again.meta["certificate"], certify.certify(again)) == []


def test_layout_is_gqa_luts(gelu):
    """The top key is the name as typed; keys "0".."6" each hold breakpoints, slopes, intercepts and nothing else."""
    data = json.loads(pipeline.compile("hswish", 8).dumps())
    assert list(data) == ["hswish", "lutc"] and data["lutc"]["function"] == "hardswish" and data["lutc"]["schema"] == 1
    assert list(data["hswish"]) == [str(b) for b in range(7)]
    for entry in data["hswish"].values():
        assert list(entry) == ["breakpoints", "slopes", "intercepts"]
        assert len(entry["slopes"]) == len(entry["intercepts"]) == len(entry["breakpoints"]) + 1 <= 8
    assert {
        "inputs",
        "coefficients",
        "tails",
        "search",
        "certificate",
        "version",
        "prologue",
        "addressing",
        "payload",
    } <= set(data["lutc"])


# GQA-LUT's runtime, from its description: quantised inputs, breakpoints and intercepts divided by the scale


def gqa_lut_runtime(entry: dict, q: np.ndarray, scale: float) -> np.ndarray:
    """bucketize(q, breakpoints / scale), slope * q + intercept / scale, times scale."""
    index = np.searchsorted(np.array(entry["breakpoints"]) / scale, q, side="left")
    return (np.array(entry["slopes"])[index] * q + np.array(entry["intercepts"])[index] / scale) * scale


@pytest.mark.parametrize("name", ["gelu", "hswish", "exp", "reci"])
@pytest.mark.parametrize("share", ["none", "all"])
def test_gqa_luts_runtime_reads_ours(name, share):
    tables = pipeline.compile(name, 8, share=share)
    data = json.loads(tables.dumps())
    q = np.arange(-128, 128)
    for key, entry in data[name].items():
        scale = 2.0 ** -int(key)
        np.testing.assert_array_equal(gqa_lut_runtime(entry, q, scale), tables[key](q * scale))


# files of others

PUBLISHED = {  # mean squared errors, mean over b = 0..6 and over b = 3..6: under its runtime's rule, under its search's
    "gelu_pwl_7": ((5.18e-4, 8.2e-5), (9.97e-5, 8.3e-5)),
    "gelu_pwl_15": ((5.28e-4, 1.60e-5), (9.06e-5, 1.58e-5)),
    "exp_pwl_7": ((1.82e-4, 2.30e-5), (1.22e-4, 2.36e-5)),
}


@pytest.mark.parametrize("file", PUBLISHED)
def test_files_of_gqa_lut(anchors, file):
    tables = table_set.read(anchors / "gqa_lut" / f"{file}.json")
    raw = json.loads((anchors / "gqa_lut" / f"{file}.json").read_text())[tables.name]
    assert tables.meta["origin"] == "gqa-lut" and list(tables) == list(raw) == [str(b) for b in range(7)]
    fn, (lo, hi) = functions.get(tables.function), tables.range
    errors = {"runtime": [], "search": []}
    for key, table in tables.items():
        entry, scale = raw[key], 2.0 ** -int(key)
        assert table.entries == len(set(entry["breakpoints"])) + 1
        x = tables.inputs[key].x()
        np.testing.assert_array_equal(gqa_lut_runtime(entry, x / scale, scale), table(x))
        x = x[(x >= lo) & (x <= hi)]
        errors["runtime"].append(np.mean((table(x) - fn(x)) ** 2))
        errors["search"].append(np.mean((certify.right_rule(table)(x) - fn(x)) ** 2))
    for rule, published in zip(("runtime", "search"), PUBLISHED[file]):
        assert np.mean(errors[rule]) == pytest.approx(published[0], rel=0.01)
        assert np.mean(errors[rule][3:]) == pytest.approx(published[1], rel=0.01)


def test_repeated_breakpoints_are_dropped():
    text = json.dumps(
        {"gelu": {"0": {"breakpoints": [-1, -0.0, 0, 0, 2], "slopes": [1, 2, 3, 4, 5, 6], "intercepts": [0] * 6}}}
    )
    (table,) = table_set.loads(text).values()
    np.testing.assert_array_equal(table.body.breakpoints, [-1, 0, 2])
    np.testing.assert_array_equal(table.body.slopes, [1, 2, 5, 6])


def test_a_foreign_name_is_kept():
    text = '{"mygelu": {"4": {"breakpoints": [], "slopes": [1], "intercepts": [0]}}}'
    tables = table_set.loads(text)
    assert tables.name == "mygelu" and tables.function is None and tables.inputs["4"] == Inputs(8, 2.0**-4)
    assert table_set.loads(tables.dumps()).dumps() == tables.dumps()


def nn_lut(**changes) -> dict:
    data = {
        "op": "silu",
        "hidden": 2,
        "cut_points": [-math.inf, -1.0, 1.0, math.inf],
        "slopes": [0.0, 0.5, 1.0],
        "biases": [-0.125, 0.0, 0.1],
    }
    return data | changes


def test_files_of_nn_lut():
    tables = table_set.loads(json.dumps(nn_lut()))
    table = tables["fp32"]
    assert tables.function == "silu" and table.entries == 3 and tables.meta["origin"] == "nn-lut"
    np.testing.assert_array_equal(table.body.breakpoints, [-1.0, 1.0])
    np.testing.assert_array_equal(table([-2.0, 0.5, 3.0]), [-0.125, 0.25, 3.0 + float(np.float32(0.1))])
    assert table_set.loads(json.dumps(nn_lut(cut_points=[-1.0, 1.0])))["fp32"].entries == 3
    again = table_set.loads(tables.dumps())
    assert same(again["fp32"], table) and "Infinity" not in tables.dumps()


def test_nn_luts_own_file(anchors):
    path = anchors / "nn_lut" / "lut_details_silu_H16_sub.json"
    table, raw = table_set.read(path)["fp32"], json.loads(path.read_text())
    assert table.entries == 17 == len(raw["slopes"])
    x = np.linspace(-10, 10, 1001)
    expected = [
        raw["slopes"][i] * v + raw["biases"][i]
        for v, i in zip(x, (sum(c < v for c in raw["cut_points"][1:-1]) for v in x))
    ]
    np.testing.assert_array_equal(table(x), expected)


# bad input: one line each


def changed(base: dict, path: tuple, value) -> str:
    data = copy.deepcopy(base)
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return json.dumps(data)


MISSING = object()
CHANGES = [
    (("gelu", "4", "slopes"), [1.0], "n breakpoints need n \\+ 1 slopes"),
    (("gelu", "4", "slopes"), "1, 2", "'slopes' must be a list of numbers"),
    (("gelu", "4", "slopes"), None, "list of numbers"),
    (("gelu", "4", "slopes"), [True] * 8, "list of numbers"),
    (("gelu", "4", "slopes"), [[1.0]] * 8, "list of numbers"),
    (("gelu", "4", "slopes"), [math.nan] * 8, "holds no NaN"),
    (("gelu", "4", "slopes"), [math.inf] * 8, "holds no Infinity"),
    (("gelu", "4", "slopes"), [10**400] * 8, "beyond float64"),
    (("gelu", "4", "slopes"), [0.001] * 8, "table '4': 0.001 is not a value of q1.6"),
    (("gelu", "4", "breakpoints"), [3, 2, 1, 0, -1, -2, -3], "increase strictly"),
    (("gelu", "4"), [], "must be an object"),
    (("gelu", "4"), {}, "has no 'breakpoints'; it has nothing"),
    (("gelu",), {}, "at least one table"),
    (("gelu",), 7, "must be an object"),
    (("other",), {}, "one function"),
    (("lutc",), 3, "must be an object"),
    (("lutc", "schema"), 2, "schema 2 is not known"),
    (("lutc", "schema"), None, "schema None"),
    (("lutc", "addressing"), "hash", "unknown addressing 'hash'"),
    (("lutc", "addressing"), ["compare"], "unknown addressing"),
    (("lutc", "addressing"), "cells", "unknown addressing 'cells' with payload 'lines'"),
    (("lutc", "prologue"), "abs", "must be an object"),
    (("lutc", "prologue"), {"kind": []}, "unknown prologue"),
    (("lutc", "prologue"), {"kind": "abs"}, "missing 2 required"),
    (("lutc", "prologue"), {"kind": "abs", "positive": [1, 0, 10**309], "negative": [1, 0, 0]}, "beyond float64"),
    (("lutc", "prologue"), {"kind": "exponent", "step": 1.0, "growth": 1}, "step 1 or 2"),
    (("lutc", "prologue"), {"kind": "period", "period": "2"}, "positive period"),
    (("lutc", "prologue"), {"kind": "period", "period": 1, "more": 1}, "unexpected keyword"),
    (("lutc", "tails"), {"left": {"slope": 1.0, "intercept": 0.0}}, "left tail"),
    (("lutc", "tails"), {"left": {"slope": "0", "intercept": 0.0}}, "left tail"),
    (("lutc", "tails"), {"left": {"slope": 0.0}}, "missing 1 required"),
    (("lutc", "tails"), [1], "must be an object"),
    (("lutc", "inputs", "4", "bits"), 40, "2 to 16 bits"),
    (("lutc", "inputs", "4", "bits"), "8", "2 to 16 bits"),
    (("lutc", "inputs", "4", "scale"), 0, "positive finite"),
    (("lutc", "inputs", "4", "zero_point"), 0.5, "zero point"),
    (("lutc", "inputs", "4", "offset"), 1, "unexpected keyword"),
    (("lutc", "inputs", "9"), {"scale": 1.0}, "tables that are not there: 9"),
    (("lutc", "inputs", "4", "scale"), "1", "positive finite number, from 2\\^-64 to 2\\^64; given '1'"),
    (("lutc", "domain"), {"low": -1.0}, "table '0' has a domain"),
    (("lutc", "coefficients"), "q9.99", "q9.99"),
    (("lutc", "coefficients"), 3, "a format is given by its name"),
    (("lutc", "function"), ["gelu"], "name of one, or null"),
    (("lutc", "range"), 4, "list of numbers"),
    (("lutc", "range"), [1.0, 1.0], "ascending"),
    (("lutc", "output"), {"bits": 99}, "2 to 16 bits"),
    (("lutc", "certificate"), [], "'certificate' must be an object"),
    (("lutc", "search"), "genetic", "'search' must be an object"),
    (("lutc", "exceptions"), [1], "'exceptions' must be an object"),
    (("lutc", "exceptions"), {"fp16": 3}, "the exception fp16 must be an object"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), CHANGES, ids=lambda v: ".".join(v) if isinstance(v, tuple) else None
)
def test_altered_files_are_refused(gelu, path, value, message):
    with pytest.raises(LutcError, match=message) as error:
        table_set.loads(changed(json.loads(gelu.dumps()), path, value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


TEXTS = {
    "empty": ("", "not valid JSON"),
    "no json": ("breakpoints: 1", "not valid JSON"),
    "a list": ("[]", "JSON object"),
    "a number": ("1", "JSON object"),
    "an empty object": ("{}", "given nothing"),
    "deep lists": ("[" * 100_000 + "]" * 100_000, "not valid JSON"),
    "deep objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "not valid JSON"),
    "many digits": (
        '{"gelu": {"0": {"breakpoints": [], "slopes": [' + "9" * 5000 + '], "intercepts": [0]}}}',
        "beyond float64",
    ),
    "a large exponent": (
        '{"gelu": {"0": {"breakpoints": [], "slopes": [1e999], "intercepts": [0]}}}',
        "beyond float64",
    ),
    "a key twice": ('{"gelu": {}, "gelu": {}}', "a key stands twice"),
    "a table twice": ('{"gelu": {"0": {}, "0": {}}}', "a key stands twice"),
    "no powers": ('{"gelu": {"fp99": {}}}', "GQA-LUT file, whose keys are powers"),
    "a far power": ('{"gelu": {"99": {"breakpoints": [], "slopes": [1], "intercepts": [0]}}}', "scale of codes"),
    "nn-lut, lengths": (json.dumps(nn_lut(slopes=[1.0])), "NN-LUT table: n breakpoints need"),
    "nn-lut, NaN": (json.dumps(nn_lut(slopes=[0.0, math.nan, 0.0])), "must be finite"),
    "nn-lut, infinity inside": (json.dumps(nn_lut(cut_points=[-1.0, math.inf])), "must be finite"),
    "nn-lut, strings": (json.dumps(nn_lut(biases=["1", "2", "3"])), "list of numbers"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_broken_hostile_and_foreign_texts(case):
    text, message = TEXTS[case]
    with pytest.raises(LutcError, match=message) as error:
        table_set.loads(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(gelu, share):
    text = gelu.dumps()
    with pytest.raises(LutcError, match="broken or cut off"):
        table_set.loads(text[: int(len(text) * share)])


SEEDS = []


def seeds() -> list[str]:
    """Files of each kind to mutate, small enough to be quick."""
    if not SEEDS:
        cells = TableSet(
            "silu",
            {"fp16": Table(Cells([-1.0, 0.0, 1.0], (1, 2), np.arange(4.0)), PeriodPrologue(2.0), Line(0.0, 0.0))},
            {},
            "silu",
        )
        direct = TableSet(
            "f", {"k": Table(Direct(np.arange(4.0), 2, 0.5), ExponentPrologue(1, -1))}, {"k": Inputs(2, 0.5)}
        )
        lines = pipeline.compile("gelu", 4, inputs=(Inputs(8, 2.0**-3),), symmetry=True, search="exact")
        SEEDS.extend([cells.dumps(), direct.dumps(), lines.dumps(), json.dumps(nn_lut())])
    return SEEDS


@given(st.data())
def test_any_mutated_text_loads_or_says_why(data):
    """Characters replaced, pieces moved, values swapped for others: a LutcError or a table that evaluates without a
    warning.
    """
    text = data.draw(st.sampled_from(seeds()))
    for _ in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(("character", "cut", "value")))
        at = data.draw(st.integers(0, len(text) - 1)) if text else 0
        if kind == "character":
            text = (
                text[:at] + data.draw(st.sampled_from(list('0123456789.-+eE{}[]":, \\nulltrefasNI'))) + text[at + 1 :]
            )
        elif kind == "cut":
            text = text[:at] + text[at + data.draw(st.integers(1, 40)) :]
        else:
            text = mutated_value(data, text)
    try:
        tables = table_set.loads(text)
    except LutcError as error:
        assert "\n" not in str(error)
        return
    x = np.array([-np.inf, -1e300, -2.0, -0.5, -0.0, 0.0, 0.25, 1.0, 3.0, 1e300, np.inf, np.nan])
    for table in tables.values():
        assert table(x).shape == x.shape and np.isnan(table(np.nan))
    assert tables.default_key in tables
    assert table_set.loads(tables.dumps()).dumps() == tables.dumps()


def mutated_value(data, text: str) -> str:
    """One value anywhere in the JSON replaced by one of another kind."""
    try:
        root = json.loads(text)
    except ValueError:
        return text
    places = []

    def walk(part):
        for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            walk(part[key])

    walk(root)
    if places:
        part, key = data.draw(st.sampled_from(places))
        part[key] = data.draw(
            st.sampled_from(
                (None, True, 0, -1, 1.5, 1e308, 10**30, 10**400, math.nan, "x", "", [], [1], {}, {"a": 1}, [[]])
            )
        )
    return json.dumps(root)


# sets


def test_files_that_are_none(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.json").write_text("{")
    messages = {
        "missing": "cannot read .*missing.json: No such file",
        "binary": "no text file",
        "broken": "broken.json: not valid",
    }
    for name, message in messages.items():
        with pytest.raises(LutcError, match=message):
            table_set.read(tmp_path / f"{name}.json")
    with pytest.raises(LutcError, match="cannot read"):
        table_set.read(tmp_path)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, gelu):
    path = tmp_path / "marked.json"
    path.write_text(gelu.dumps(), encoding="utf-8-sig")
    assert table_set.read(path).dumps() == gelu.dumps()


def test_a_set_prints_on_a_line(gelu):
    assert repr(gelu).startswith(
        "<TableSet gelu: '0': <Table 8 entries, q1.6>, '1': <Table 8 entries, q1.6>, "
    ) and "\n" not in repr(gelu)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_file_without_an_end(monkeypatch):
    monkeypatch.setattr(table_set, "LARGEST_FILE", 1 << 20)
    with pytest.raises(LutcError, match="/dev/zero is larger than 1 MiB"):
        table_set.read("/dev/zero")


def test_files_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(table_set, "LARGEST_FILE", 10)
    (tmp_path / "a.json").write_text(" " * 11)
    with pytest.raises(LutcError, match="larger than"):
        table_set.read(tmp_path / "a.json")


def test_keys_and_scales(gelu):
    assert gelu["3"] is gelu[3] and len(gelu) == 7
    with pytest.raises(LutcError, match="no table '9' in 'gelu'; there are 0, 1"):
        gelu["9"]
    assert [gelu.key_for_scale(s) for s in (1.0, 0.9, 2.0**-4, 0.05, 2.0**-9, 1e9)] == ["0", "0", "4", "4", "6", "0"]
    assert gelu.default_key == "5"  # 127 / 32 covers [-4, 4] but for the last step
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(LutcError, match="positive finite"):
            gelu.key_for_scale(scale)
    with pytest.raises(LutcError, match="no input scale"):
        TableSet("f", {"fp32": gelu["4"]}).key_for_scale(1.0)


def test_sets_are_checked(gelu):
    with pytest.raises(LutcError, match="at least one table"):
        TableSet("f", {})
    with pytest.raises(LutcError, match="tables that are not there: 7"):
        TableSet("f", {"0": gelu["0"]}, {"7": Inputs()})


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64(np.nan)])
def test_no_file_holds_nan(gelu, tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(LutcError, match="no NaN or Infinity"):
        TableSet("f", gelu.tables, gelu.inputs, "gelu", {"figure": value}).save(path)
    assert path.read_text() == "old"


def test_a_record_nested_too_deeply(gelu):
    record = {}
    for _ in range(100_000):
        record = {"a": record}
    with pytest.raises(LutcError, match="nested too deeply"):
        TableSet("f", gelu.tables, gelu.inputs, "gelu", {"record": record}).dumps()
    while record:  # taken apart step by step: freeing it at once may overflow the stack
        record = record["a"]
