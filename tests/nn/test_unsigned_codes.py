"""uint8 codes give what the signed integer model gives to the codes less 128, for every code."""

import numpy as np
import pytest
import torch

from lutc.errors import LutcError
from lutc.formats import ROUNDINGS, Inputs, Outputs
from lutc.nn import QuantLUT
from lutc.table.integer import evaluate
from lutc.table.library import load


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("zero_point, out_zero_point", [(0, 0), (128, 7), (255, 255), (3, 130)])
def test_every_code(zero_point, out_zero_point, rounding):
    table, inputs = load("gelu_8")["4"], Inputs(8, 2.0**-4, zero_point - 128)
    out = Outputs(8, 2.0**-3, out_zero_point - 128, rounding)
    want = evaluate(table, np.arange(256) - 128, inputs, out)
    q = torch.arange(256, dtype=torch.uint8)
    given = {"zero_point": zero_point, "out_scale": 2.0**-3, "out_zero_point": out_zero_point, "rounding": rounding}
    for module, more in ((QuantLUT("gelu_8", 2.0**-4, **given, signed=False), ()), (None, (2.0**-4,))):
        module = module or QuantLUT("gelu_8", **given, signed=False)
        codes = module(q, *more)
        assert codes.dtype == torch.uint8 and codes.tolist() == (want + 128).tolist()
        x = (torch.arange(256) - zero_point) * 2.0**-4
        assert module(x, *more).tolist() == ((want + 128 - out_zero_point) * 2.0**-3).tolist()
        assert module(torch.tensor([1e9, -1e9]), *more).tolist() == module(x, *more)[[255, 0]].tolist()
        assert module(torch.tensor([torch.nan]), *more).isnan().all()


def test_accumulators_and_narrow_codes():
    table, q = load("gelu_8")["4"], torch.arange(16, dtype=torch.uint8)
    want = evaluate(table, np.arange(16) - 8, Inputs(4, 2.0**-4, -5))
    assert QuantLUT("gelu_8", 2.0**-4, 3, bits=4, signed=False)(q).tolist() == want.tolist()
    with pytest.raises(LutcError, match="codes of 4 bits are 0 to 15; given 0 to 16"):
        QuantLUT("gelu_8", 2.0**-4, 3, bits=4, signed=False)(torch.tensor([0, 16], dtype=torch.uint8))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"zero_point": 256}, "zero_point.*0..255; given 256"),
        ({"out_scale": 1.0, "out_zero_point": -1}, "out_zero_point.*0..255; given -1"),
        ({"bits": 9}, "2 to 8 bits; given 9"),
        ({"scale": "learned"}, "learned goes with signed codes"),
    ],
)
def test_bad_input_is_one_error(given, said):
    with pytest.raises(LutcError, match=said):
        QuantLUT("gelu_8", **{"scale": 2.0**-4, **given}, signed=False)


def test_dtypes_that_do_not_fit_say_what_to_do():
    signed, unsigned = QuantLUT("gelu_8", 2.0**-4), QuantLUT("gelu_8", 2.0**-4, signed=False)
    with pytest.raises(LutcError, match="takes torch.uint8 codes or floats; given a tensor of torch.int8"):
        unsigned(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(LutcError, match="takes torch.int8 codes or floats; given a tensor of torch.uint8"):
        signed(torch.zeros(3, dtype=torch.uint8))


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_say_what_to_do():
    q = torch.quantize_per_tensor(torch.zeros(3), 0.5, 0, torch.quint8)
    with pytest.raises(LutcError, match=r"int_repr\(\)"):
        QuantLUT("gelu_8", 2.0**-4, signed=False)(q)
