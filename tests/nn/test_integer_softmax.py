"""Integer softmax: torch against the numpy model bit for bit, the model against plain Python integers and the float
softmax.
"""

import numpy as np
import pytest
import torch

from lutc.errors import LutcError, ScaleWarning
from lutc.hardware.rows import EXP_BITS, ROOT_BITS, leading_one, row_requantise, shift_to
from lutc.nn.integer_softmax import IntegerSoftmax
from tests.helpers.handmade import float_tables, int_tables

EXP, RECI = int_tables("exp"), int_tables("reciprocal", 8, range(3, 7))
SCALES = [2.0**-b for b in range(7)] + [0.07, 0.031, 1.7]


def make(scale=2.0**-4, **options):
    return IntegerSoftmax(EXP, RECI, scale, **options)


def python_row(module, row):
    """The rule in Python integers and fractions of one row, without numpy: an oracle for the model."""
    exp, reci = module.model.exp, module.model.reciprocal

    def accumulate(lines, centred):
        segment = sum(1 for cut in lines.cuts.tolist() if cut < centred)
        return int(lines.slopes[segment]) * centred + int(lines.intercepts[segment])

    def half_up(numerator, denominator_bits):
        return (numerator * 2 + (1 << denominator_bits)) >> (denominator_bits + 1)

    def requantise(acc, ratio):
        mantissa, exponent = np.frexp(ratio)
        multiplier = 1 if mantissa == 0.5 else round(float(mantissa) * 2**31)
        shift = (1 if mantissa == 0.5 else 31) - int(exponent)
        return half_up(acc * multiplier, shift) if shift > 0 else acc * multiplier << -shift

    top = max(row)
    weights = [
        min(max(requantise(accumulate(exp, q - top), exp.unit * 2.0**EXP_BITS), 0), (2 << EXP_BITS) - 1) for q in row
    ]
    total = sum(weights)
    assert total < 2**31
    places = total.bit_length() - 1
    mantissa = half_up(total << 14, places) if places > 14 else total << (14 - places)
    root = requantise(accumulate(reci, min(mantissa, 32767)), reci.unit * 2.0**ROOT_BITS)
    out = module.model.out
    codes = [
        requantise(weight * root, 2.0**-ROOT_BITS / out.scale * 2.0**-places) + out.zero_point for weight in weights
    ]
    return [min(max(code, out.minimum), out.maximum) for code in codes]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("out", [{}, {"out_scale": 1 / 255}, {"out_dtype": torch.int8}])
def test_torch_equals_the_model_and_the_model_equals_python(scale, out):
    module = make(scale, **out)
    rng = np.random.default_rng(1)
    for n in (1, 2, 7, 64, 301):
        q = rng.integers(-128, 128, (5, n)).astype(np.int8)
        q[0] = 127  # all equal
        q[1, 1:] = -128  # the largest difference
        got = module(torch.from_numpy(q)).numpy()
        model = module.model(q)
        assert (got == model).all()
        assert [python_row(module, row) for row in q.tolist()] == model.tolist()


@pytest.mark.parametrize("scale", [2.0**-3, 2.0**-4, 2.0**-5])
def test_close_to_the_float_softmax(scale):
    module = make(scale)
    q = torch.randint(-128, 128, (64, 48), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    exact = torch.softmax(q.double() * scale, -1)
    assert (module.dequantise(module(q)) - exact).abs().max() < 0.05


def test_mask_equals_leaving_the_elements_out():
    module = make()
    q = torch.randint(-128, 128, (4, 33), dtype=torch.int8, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(4, 33, dtype=torch.bool)
    mask[:, ::3] = True
    got = module(q, mask)
    assert (got[:, ::3] == module(q[:, ::3].contiguous())).all()
    assert (got[~mask] == 0).all()
    assert (module(q, torch.zeros(33, dtype=torch.bool)) == 0).all()
    assert (torch.from_numpy(module.model(q.numpy(), mask.numpy())) == got).all()


def test_other_dim_and_empty_and_strided():
    q = torch.randint(-128, 128, (6, 8, 5), dtype=torch.int8, generator=torch.Generator().manual_seed(3))
    assert (make(dim=1)(q) == make()(q.transpose(1, 2)).transpose(1, 2)).all()
    assert (make()(q[..., ::2]) == make()(q[..., ::2].contiguous())).all()
    assert make()(torch.empty(0, 7, dtype=torch.int8)).shape == (0, 7)
    assert make()(torch.empty(3, 0, dtype=torch.int8)).dtype == torch.uint8


def test_longest_row_is_where_int32_ends():
    module = make()
    longest = module.model.longest_row
    codes = torch.zeros(1, longest, dtype=torch.int8)
    with pytest.warns(ScaleWarning, match=rf"rows of {longest} gave rows .* take out_scale=2\*\*-22 with out_dtype=t"):
        got = module(codes)
    assert (got == torch.from_numpy(module.model(codes.numpy()))).all() and (got == 0).all()
    finer = make(out_dtype=torch.uint16, out_scale=2.0**-22)
    got = finer(codes).to(torch.int64)
    assert (got == torch.from_numpy(finer.model(codes.numpy()))).all() and (got == 8).all()
    with pytest.raises(LutcError, match=f"{longest + 1} could overflow the int32 sum.*at most {longest}"):
        module(torch.zeros(longest + 1, dtype=torch.int8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1.0}, "scale is a positive finite number"),
        ({"scale": float("nan")}, "scale is a positive finite number"),
        ({"out_dtype": torch.int32}, "out_dtype is one of torch.uint8, torch.int8, torch.uint16, torch.int16; given"),
        ({"out_scale": 0.0}, "out_scale is a positive finite number"),
        ({"out_scale": 1e-9}, r"at least 2\*\*-24"),
        ({"out_zero_point": 300}, "out_zero_point lies in 0..255"),
        ({"bits": 12}, "bits of the input codes are 8 or 16; given 12"),
        ({"exp": int_tables("gelu")}, "a table of exp is needed here; 'gelu' is one of gelu"),
        ({"reciprocal": int_tables("rsqrt")}, "a table of reciprocal is needed"),
        ({"exp": float_tables("exp", -8, 0)}, "takes exp tables over codes"),
        ({"exp": 3}, "given by name, path, TableSet or Table"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(LutcError, match=message):
        IntegerSoftmax(**{"exp": EXP, "reciprocal": RECI, "scale": 2.0**-4, **arguments})


def test_bad_inputs():
    with pytest.raises(LutcError, match="takes torch.int8 codes; given a tensor of torch.float32"):
        make()(torch.zeros(3))
    with pytest.raises(LutcError, match="zero-dimensional"):
        make()(torch.tensor(3, dtype=torch.int8))
    with pytest.raises(LutcError, match="mask of IntegerSoftmax takes torch.bool"):
        make()(torch.zeros(3, dtype=torch.int8), torch.zeros(3))


def test_state_dict_and_leading_one():
    fresh = make()
    fresh.load_state_dict(make().state_dict())
    x = np.concatenate([2 ** np.arange(31), 2 ** np.arange(1, 31) - 1])
    assert (leading_one(x) == [int(v).bit_length() - 1 for v in x]).all()
    assert shift_to(5, -1) == 3 and shift_to(5, 2) == 20 and shift_to(7, -40) == 0
    assert row_requantise(-3, 1, 1) == -1 and row_requantise(2**60, 1, 90) == 0
