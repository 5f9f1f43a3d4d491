"""gqa_lut_pwl: the call of GQA-LUT's users, on files of theirs and ours."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.nn import gqa_lut_pwl
from tests.helpers.handmade import int_tables


def foreign(tmp_path, tables):
    """A file as GQA-LUT writes it: no 'lutc' key."""
    entries = {
        key: {name: getattr(t.body, name).tolist() for name in ("breakpoints", "slopes", "intercepts")}
        for key, t in tables.tables.items()
    }
    path = tmp_path / f"{tables.name}_pwl_7.json"
    path.write_text(json.dumps({tables.name: entries}))
    return path


def by_hand(entry, q, scale):
    """One code by the definition: lines of k q + t / scale, left at a breakpoint, times scale."""
    segment = sum(1 for point in entry["breakpoints"] if point / scale < q)
    return (entry["slopes"][segment] * q + entry["intercepts"][segment] / scale) * scale


@pytest.mark.parametrize("scale", [2.0, 1.0, 0.5, 0.3, 2.0**-4, 2.0**-6, 2.0**-9, 0.02])
@pytest.mark.parametrize("ours", [False, True])
def test_every_code(tmp_path, scale, ours):
    tables = int_tables("gelu")
    path = foreign(tmp_path, tables)
    entries = json.loads(path.read_text())["gelu"]
    if ours:
        path = tmp_path / "gelu_8.json"
        tables.save(path)
    module = gqa_lut_pwl("gelu", path, 6)
    q = torch.arange(-128, 128, dtype=torch.float32)
    power = min(max(-int(math.log2(scale)), 0), 6)
    want = [by_hand(entries[str(power)], code, scale) for code in q.tolist()]
    assert np.allclose(module(q, torch.tensor(scale)).tolist(), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(module(q, scale), module(q, torch.tensor(scale)))


def test_power_is_truncated_toward_zero_and_clipped(tmp_path):
    module = gqa_lut_pwl("gelu", foreign(tmp_path, int_tables("gelu")), 4)
    assert [module.power(s) for s in (4.0, 1.5, 1.0, 0.6, 0.5, 0.3, 0.25, 2.0**-4, 2.0**-8)] == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        4,
        4,
    ]


def test_gradients_are_the_exact_functions(tmp_path):
    module = gqa_lut_pwl("gelu", foreign(tmp_path, int_tables("gelu")))
    q = torch.arange(-60.0, 60.0, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(2.0**-4, dtype=torch.float64, requires_grad=True)
    got = torch.autograd.grad(module(q, scale).sum(), [q, scale])
    want = torch.autograd.grad(F.gelu(q * scale).sum(), [q, scale])
    assert all(torch.allclose(a, b) for a, b in zip(got, want, strict=True))


def test_half_keeps_the_table_and_nan_stays(tmp_path):
    module = gqa_lut_pwl("gelu", foreign(tmp_path, int_tables("gelu")))
    q = torch.tensor([-50.0, 0.0, 20.0, math.nan])
    want = module(q, 2.0**-4)
    assert torch.equal(module.half()(q, 2.0**-4)[:3], want[:3]) and want[3].isnan()
    assert module(q.half(), 2.0**-4).dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "file"), [("gelu", "gelu_pwl_7.json"), ("gelu", "gelu_pwl_15.json"), ("exp", "exp_pwl_7.json")]
)
def test_files_of_gqa_lut(anchors, name, file):
    path = anchors / "gqa_lut" / file
    module = gqa_lut_pwl(name, path)
    entries = json.loads(path.read_text())[name]
    q = torch.arange(-128, 1 if name == "exp" else 128, dtype=torch.float64)
    for power in range(7):
        want = [by_hand(entries[str(power)], code, 2.0**-power) for code in q.tolist()]
        assert np.allclose(module(q, 2.0**-power).tolist(), want, atol=1e-6)


def test_bad_input(tmp_path):
    path = foreign(tmp_path, int_tables("gelu", powers=range(5)))
    with pytest.raises(LutcError, match=r"has no table for 2\*\*-5, 2\*\*-6; it has 0, 1, 2, 3, 4: lower decimal_bit"):
        gqa_lut_pwl("gelu", path)
    with pytest.raises(LutcError, match="holds tables of 'gelu', not of 'silu'"):
        gqa_lut_pwl("silu", path, 4)
    with pytest.raises(LutcError, match="unknown pwl_type 'gelv'"):
        gqa_lut_pwl("gelv", path, 4)
    with pytest.raises(LutcError, match="decimal_bit is a whole number from 0; given -1"):
        gqa_lut_pwl("gelu", path, -1)
    with pytest.raises(LutcError, match="cannot read"):
        gqa_lut_pwl("gelu", tmp_path / "missing.json")
    module = gqa_lut_pwl("gelu", path, 4)
    for scale in (0.0, -1.0, math.nan, torch.ones(2), "1"):
        with pytest.raises(LutcError, match="scale is one positive finite number"):
            module(torch.zeros(2), scale)
    with pytest.raises(LutcError, match="takes integers in a float tensor; given torch.int8"):
        module(torch.zeros(2, dtype=torch.int8), 1.0)
