"""The evolved front against enumeration, and every figure on it against the compiled table."""

import dataclasses
import json
import random

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lutc import functions, hardware
from lutc.cli import main
from lutc.errors import LutcError
from lutc.explore.baselines import baselines
from lutc.explore.designs import Choice, Design, Space, Workbench, places
from lutc.explore.evolution import EvolutionSettings, compile_design, explore, front_of, worthwhile
from lutc.formats.codes import Inputs
from lutc.hardware.bits import Cost, shared_breakpoint_bits
from lutc.table.library import load

AT_4, OUT_4 = Inputs(8, 2.0**-4), Inputs(8, 2.0**-4)
SMALL = Space("gelu", (AT_4,), entries=(2, 12), fraction_bits=(4, 6))
BRIEF = EvolutionSettings(population=16, generations=6)
SCALES = tuple(Inputs(8, 2.0**-b) for b in (3, 4, 5))


def enumerated(space: Space) -> list[Design]:
    """Every design of a space."""
    bench = Workbench(space)
    return [
        bench.design(Choice(entries, name, half, share))
        for half, names in bench.formats.items()
        for name in names
        for share in bench.sharing
        for entries in range(space.entries[0], bench.most_entries[half] + 1)
    ]


def beaten(values: tuple, others: list[tuple]) -> bool:
    """Plain definition of dominance."""
    return any(all(a <= b for a, b in zip(other, values)) and other != values for other in others)


def score(design, minimise) -> tuple:
    return (design.error, *(hardware.FIGURES[name][1](design.cost) for name in minimise))


@pytest.mark.parametrize("minimise", [("bits",), ("bits", "comparators", "multiplier")])
@pytest.mark.parametrize(
    "space", [SMALL, dataclasses.replace(SMALL, out=OUT_4, objective="codes")], ids=["squared", "codes"]
)
def test_the_evolved_front_is_the_enumerated_one(space, minimise):
    every = enumerated(space)
    scores = [score(design, minimise) for design in every]
    expected = {s for s in scores if not beaten(s, scores)}
    found = explore(space, minimise, seed=1, settings=EvolutionSettings(gain=0.0))
    assert {score(design, minimise) for design in found.front} == expected
    assert found.evaluations <= len(every)


def test_with_several_scales_the_front_has_own_and_shared_tables():
    space = dataclasses.replace(SMALL, inputs=SCALES)
    every = enumerated(space)
    scores = [score(design, ("bits",)) for design in every]
    expected = {s for s in scores if not beaten(s, scores)}
    found = explore(space, settings=EvolutionSettings(gain=0.0))
    assert {score(design, ("bits",)) for design in found.front} == expected
    assert {design.choice.share for design in found.front} == {"none", "all"}


_designs = st.builds(
    lambda error, bits, comparators, entries: Design(
        Choice(entries, "q1.6"), float(error), Cost(entries, bits, comparators, 8, (8, 8), 17), True
    ),
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(2, 9),
)


@given(st.lists(_designs, min_size=1, max_size=30), st.sampled_from([("bits",), ("bits", "comparators")]))
def test_front_of_is_the_definition(designs, minimise):
    scores = [score(design, minimise) for design in designs]
    front = front_of(designs, minimise)
    assert {score(design, minimise) for design in front} == {s for s in scores if not beaten(s, scores)}
    assert len({score(design, minimise) for design in front}) == len(front)
    assert [score(d, minimise)[1:] for d in front] == sorted(score(d, minimise)[1:] for d in front)


@given(st.lists(_designs, min_size=1, max_size=30), st.floats(0.0, 0.9))
def test_a_higher_cost_has_to_be_worth_it(designs, gain):
    front = front_of(designs, ("bits",))
    kept = worthwhile(front, ("bits",), gain)
    assert kept[0] == front[0]
    for cheaper, dearer in zip(kept, kept[1:]):
        assert dearer.error < cheaper.error * (1 - gain)
    for design in front:
        assert any(k.cost.stored_bits <= design.cost.stored_bits and k.error * (1 - gain) <= design.error for k in kept)


@pytest.mark.parametrize(
    "space",
    [
        SMALL,
        dataclasses.replace(SMALL, function="exp", tails="free"),
        dataclasses.replace(SMALL, out=OUT_4, objective="codes"),
        dataclasses.replace(SMALL, objective="maximum", fraction_bits=(5, 5), entries=(4, 8)),
        dataclasses.replace(SMALL, inputs=SCALES),
        dataclasses.replace(SMALL, function="sigmoid", inputs=(Inputs(8, 0.05, 3),)),
    ],
    ids=["squared", "free tails", "codes", "maximum", "scales", "zero point"],
)
def test_a_written_design_has_the_figures_of_the_front(space):
    found = explore(space, settings=BRIEF)
    for design in (found.front[0], found.front[len(found.front) // 2], found.front[-1]):
        tables = compile_design(space, design)
        certificates = list(tables.meta["certificate"].values())
        if space.objective == "codes":
            error = sum(c["output"]["squared"] for c in certificates)
        elif space.objective == "maximum":
            error = certificates[0]["range"]["worst_absolute"]["error"]
        else:
            error = np.mean([c["range"]["mean_squared"] for c in certificates])
        assert design.error == pytest.approx(error, rel=1e-4)
        if design.choice.share == "none":
            cost = hardware.together(hardware.cost(table, tables.inputs[key]) for key, table in tables.items())
            assert cost == design.cost


def test_an_exact_design_is_right_for_every_code():
    """9 lines of q1.4 give int8 gelu without a wrong code: the case against the direct table."""
    space = Space("gelu", (AT_4,), OUT_4, "codes")
    best = explore(space, settings=EvolutionSettings(population=32)).front[-1]
    assert best.error == 0 and best.cost.stored_bits <= 172
    tables = compile_design(space, best)
    q = np.arange(-128, 128)
    lines = [(list(t.body.breakpoints), list(t.body.slopes), list(t.body.intercepts)) for t in tables.values()][0]
    fraction = 2 ** int(best.choice.coefficients.split(".")[1])
    for code in q.tolist():
        s = sum(b < code / 16 for b in lines[0])
        acc = round(lines[1][s] * fraction) * code + (round(lines[2][s] * fraction) << 4)
        assert (acc + fraction // 2) // fraction == np.rint(functions.get("gelu")(code / 16) * 16)


def test_the_same_seed_gives_the_same_front_and_the_generator_is_left_alone():
    random.seed(7)
    state = random.getstate()
    first, second = explore(SMALL, seed=3, settings=BRIEF), explore(SMALL, seed=3, settings=BRIEF)
    assert first == second
    assert random.getstate() == state


def test_more_than_512_codes_are_explored_on_fewer_places():
    inputs = Inputs(12, 2.0**-8)
    x = inputs.x()
    x = x[(x >= -4) & (x <= 4)]
    cuts = places(x, inputs)
    assert cuts[0] == 0 and cuts[-1] == x.size and cuts.size <= 513
    assert ((x[cuts[1:-1]] / inputs.scale) % 4 == 0).all()  # 2,049 codes: every fourth
    space = dataclasses.replace(SMALL, inputs=(inputs,), fraction_bits=(6, 6), symmetry=False, entries=(6, 8))
    design = explore(space, settings=BRIEF).front[-1]
    assert not design.proven
    error = compile_design(space, design).meta["certificate"]["8"]["range"]["mean_squared"]
    assert error <= design.error <= 1.05 * error


def test_shared_breakpoints_are_counted_on_the_grid_they_are_stored_on():
    # places of [-4, 4] in steps of 2^-5 / 4 = 2^-7 are -512..512: 11 bits; their magnitudes 10
    assert shared_breakpoint_bits((-4.0, 4.0), SCALES) == 11
    assert shared_breakpoint_bits((-4.0, 4.0), SCALES, half=True) == 10


def test_baselines_of_squared_error_against_plain_arithmetic():
    found = {(b.kind, b.coefficients, b.cost.entries, b.half): b for b in baselines(Workbench(SMALL))}
    x = np.arange(-64, 65) / 16
    y = functions.get("gelu")(x)
    direct = next(b for key, b in found.items() if key[:2] == ("direct", "q2.5"))
    assert direct.error == pytest.approx(np.mean((np.clip(np.rint(y * 32), -128, 127) / 32 - y) ** 2), rel=1e-9)
    assert direct.cost.stored_bits == 2048


@pytest.mark.parametrize("scales", [(AT_4,), SCALES], ids=["one scale", "shared"])
def test_equal_segments_against_plain_arithmetic(scales):
    share = "all" if len(scales) > 1 else "none"
    found = baselines(Workbench(dataclasses.replace(SMALL, inputs=scales)))
    uniform = [b for b in found if b.kind == "uniform" and b.half and b.coefficients == "q0.6" and b.share == share]
    assert uniform
    for baseline in uniform:
        # the width is one of these powers of two; cells from 0 on have a line each, the tail takes the rest
        errors = [half_in_equal_segments(scales, 2.0**power, baseline.cost.entries - 1) for power in range(-5, 3)]
        assert min(abs(baseline.error / error - 1) for error in errors) < 1e-6


def half_in_equal_segments(scales, width: float, cells: int) -> float:
    """Mean squared error of gelu's stored half with the best q0.6 line in each of `cells` segments, by trying all of
    them, and 0 beyond.
    """
    values = np.arange(-64, 64) / 64
    k, t = (v.ravel() for v in np.meshgrid(values, values, indexing="ij"))
    u, h, weight = [], [], []
    for inputs in scales:
        magnitudes = np.abs(inputs.x()[np.abs(inputs.x()) <= 4])
        u.append(magnitudes)
        h.append(functions.get("gelu").symmetry.h(magnitudes))
        weight.append(np.full(magnitudes.size, 1 / magnitudes.size / len(scales)))
    u, h, weight = map(np.concatenate, (u, h, weight))
    total = float((weight * h**2)[u >= cells * width].sum())
    for cell in range(cells):
        at = np.floor(u / width) == cell
        total += float((np.square(np.outer(k, u[at]) + t[:, None] - h[at]) @ weight[at]).min()) if at.any() else 0.0
    return total


def test_a_direct_table_of_output_codes_is_exact_and_gqa_luts_shared_set_stands_beside_it():
    found = baselines(Workbench(Space("gelu", (AT_4,), OUT_4, "codes")))
    direct = [b for b in found if b.kind == "direct"]
    assert [(b.error, b.cost.stored_bits, b.coefficients) for b in direct] == [(0.0, 2048, "int8")]
    assert [b.cost.entries for b in found if b.kind == "shared"] == [8, 16, 32]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"function": "gelv"}, "did you mean"),
        ({"entries": (1, 8)}, "entries to explore are a range within 2..256; given 1 to 8"),
        ({"entries": (9, 8)}, "given 9 to 8"),
        ({"fraction_bits": (3, 16)}, "fraction bits to explore are a range within 1..15"),
        ({"inputs": ()}, "at least one input scale"),
        ({"objective": "codes"}, "output scale"),
        ({"objective": "relative"}, "objectives to explore are squared, absolute, maximum, codes; given 'relative'"),
        ({"objective": "maximum", "fraction_bits": (9, 10)}, "8 bits in all"),
        ({"range": (8.5, 9.0)}, "no code"),
    ],
)
def test_bad_spaces_are_one_clear_error(change, message):
    with pytest.raises(LutcError, match=message) as caught:
        explore(dataclasses.replace(SMALL, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("minimise", [(), ("bits", "bits"), ("joules",)])
def test_unknown_costs_are_refused(minimise):
    with pytest.raises(LutcError, match="one or more of bits, comparators, multiplier, entries"):
        explore(SMALL, minimise)


@pytest.mark.parametrize(
    "setting", [{"population": 10}, {"population": 4}, {"generations": 0}, {"gain": 1.0}, {"gain": float("nan")}]
)
def test_settings_are_checked(setting):
    with pytest.raises(LutcError, match="given"):
        EvolutionSettings(**setting)


QUICK = [
    "explore",
    "gelu",
    "--entries",
    "2",
    "10",
    "--fraction-bits",
    "4",
    "6",
    "--population",
    "16",
    "--generations",
    "6",
]


def run(*arguments):
    return CliRunner().invoke(main, [*QUICK, *map(str, arguments)])


def test_command_prints_the_front_and_the_baselines():
    result = run()
    assert result.exit_code == 0, result.output
    front = explore(dataclasses.replace(SMALL, entries=(2, 10)), settings=BRIEF).front
    rows = [line.split() for line in result.output.splitlines() if line[:1].isdigit()]
    assert [[int(row[0]), int(row[1]), row[3], int(row[5])] for row in rows] == [
        [n, d.choice.entries, d.choice.coefficients, d.cost.stored_bits] for n, d in enumerate(front, 1)
    ]
    assert {line.split()[0] for line in result.output.splitlines() if line} >= {"direct", "uniform", "shared"}


def test_command_prints_json_and_writes_a_table_and_a_picture(tmp_path):
    table, picture = tmp_path / "table.json", tmp_path / "front.png"
    result = run(
        "--json", "--write", 3, "-o", table, "--plot", picture, "--out-scale", "2^-4", "--minimise", "bits,comparators"
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert (
        data["written"] == str(table) and data["minimise"] == ["bits", "comparators"] and data["objective"] == "codes"
    )
    design, tables = data["front"][2], load(table)
    assert tables["4"].entries == design["entries"] and tables["4"].coefficients == design["coefficients"]
    assert tables.meta["certificate"]["4"]["output"]["squared"] == design["error"]
    assert hardware.cost(tables["4"], tables.inputs["4"]).stored_bits == design["stored_bits"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--write", 0], "there is no design 0: the front has designs 1 to "),
        (["--write", 99], "there is no design 99"),
        (["-o", "x.json"], "add --write N"),
        (["--minimise", "joules"], "given joules"),
        (["--plot", "front.bmp"], ".png, .svg or .pdf"),
        (["--population", 7], "a multiple of 4"),
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
