"""What modules over codes are given that does not fit: one line of LutcError each, never another error or a number."""

import math
import warnings

import numpy as np
import pytest
import torch

from lutc.errors import LutcError
from lutc.nn import FakeQuantize, IntegerLayerNorm, IntegerRMSNorm, IntegerSoftmax, QuantLUT
from tests.helpers.handmade import int_tables

pytestmark = pytest.mark.filterwarnings("ignore")  # scales without a table; torch's sparse and quantised tensors
GELU = int_tables("gelu")
Q = torch.arange(-8, 8).to(torch.int8)
NUMBERS = {"scale": 2.0**-4, "out_scale": 2.0**-4}


def refused(call, *arguments, **options):
    with pytest.raises(LutcError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value) and str(error.value)
    return str(error.value)


SCALES = [0, -1.0, math.nan, math.inf, "x", True, [1.0], torch.tensor([1.0, 2.0]), torch.tensor(math.nan), 1j, {}, b"x"]
FAR = [1e-300, 5e-324, 1e-25, 1e25, 1e308]


@pytest.mark.parametrize("scale", [*SCALES, *FAR], ids=str)
def test_scales(scale):
    refused(QuantLUT, GELU, scale)
    refused(QuantLUT, GELU, 2.0**-4, out_scale=scale)
    refused(FakeQuantize, scale)
    for x in (Q, Q.float()):
        refused(QuantLUT(GELU, out_scale=0.1), x, scale)
    channels = scale if isinstance(scale, (str, bytes, dict)) else [0.1, scale]
    refused(QuantLUT, GELU, channels, axis=0)
    refused(FakeQuantize, channels, axis=0)
    for x in (Q[:2], Q[:2].float()):
        refused(QuantLUT(GELU, axis=0), x, channels)
    refused(IntegerSoftmax, scale=scale)
    for name in NUMBERS:
        refused(IntegerRMSNorm, None, n=16, **NUMBERS | {name: scale})
        refused(IntegerLayerNorm, None, None, n=16, **NUMBERS | {name: scale})


OPTIONS = [
    *({"bits": bits} for bits in (1, 17, 8.0, True, "8", None)),
    *({"zero_point": zero} for zero in (128, -129, 1.5, None, "a", [1], torch.tensor(3))),
    *({"out_zero_point": zero} for zero in (128, 1.5, None, "a", True)),
    *({"rounding": rounding} for rounding in ("up", 3, [])),
    *({"signed": signed} for signed in (None, "no", 0)),
    {"signed": False, "bits": 16},
    {"signed": False, "out_zero_point": -3},
    {"axis": "1"},
    {"axis": 1},
    {"channels": 3},
    {"axis": 0, "scale": [1.0, 2.0], "channels": 2.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options):
    refused(QuantLUT, GELU, **NUMBERS | options)
    rest = {name: value for name, value in options.items() if name in ("zero_point", "axis", "channels")}
    if rest or options.get("signed", True) not in (True, False):
        refused(FakeQuantize, **{"scale": 2.0**-4} | (rest or options))
    if "zero_point" in options:
        refused(FakeQuantize, "learned", **options)
        refused(IntegerRMSNorm, None, n=16, **NUMBERS | options)
    if "out_zero_point" in options and len(options) == 1:
        refused(IntegerRMSNorm, None, n=16, **NUMBERS | options)
        refused(IntegerLayerNorm, None, None, n=16, **NUMBERS | options)
        wrong = options["out_zero_point"] not in (128, None)  # a softmax gives uint8, and chooses for None
        if wrong:
            refused(IntegerSoftmax, **options)


def test_whole_numbers_of_numpy_are_whole_numbers():
    for zero in (np.int64(3), np.int8(3)):
        module = QuantLUT(GELU, 2.0**-4, zero, 2.0**-4, zero)
        assert torch.equal(module(Q), QuantLUT(GELU, 2.0**-4, 3, 2.0**-4, 3)(Q)) and type(module.zero_point) is int
        assert torch.equal(FakeQuantize(0.1, zero_point=zero)(Q.float()), FakeQuantize(0.1, zero_point=3)(Q.float()))


def quantised(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that they go away
        return torch.quantize_per_tensor(torch.ones(16), 0.1, 0, dtype)


OTHERS = [
    None,
    3,
    [1.0, 2.0],
    np.ones(16, np.int8),
    *(
        torch.ones(16).to(dtype)
        for dtype in (torch.int16, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)
    ),
    quantised(torch.qint8),
    quantised(torch.quint8),
    torch.ones(2, 16).to_sparse(),
    torch.ones(2, 16, dtype=torch.int8).to_sparse(),
]


def name_of(x):
    return f"{x.dtype} {x.layout}" if isinstance(x, torch.Tensor) else type(x).__name__


@pytest.mark.parametrize("x", OTHERS, ids=name_of)
def test_inputs(x):
    codes = [
        QuantLUT(GELU, **NUMBERS),
        QuantLUT(GELU, [0.1] * 16, axis=-1),
        QuantLUT(GELU, "dynamic"),
        IntegerSoftmax(),
        IntegerRMSNorm(None, n=16, **NUMBERS),
        IntegerLayerNorm(None, None, n=16, **NUMBERS),
    ]
    for module in (*codes, FakeQuantize(0.1), FakeQuantize("dynamic"), FakeQuantize("dynamic", axis=-1)):
        refused(module, x)
    with pytest.raises(LutcError, match="int_repr" if getattr(x, "is_quantized", False) else "given"):
        codes[0](x)


def test_shapes_of_rows():
    q = torch.zeros(4, 16, dtype=torch.int8)
    refused(IntegerSoftmax(dim=2), q)
    for dim in ("a", True, 1.5, None):
        refused(IntegerSoftmax, dim=dim)
    refused(IntegerSoftmax(), q, torch.ones(3, 16, dtype=torch.bool))
    refused(IntegerSoftmax(), q, torch.ones(4, 16))
    refused(IntegerSoftmax(), q[0, 0])
    for norm in (IntegerRMSNorm(None, n=16, **NUMBERS), IntegerLayerNorm(None, None, n=16, **NUMBERS)):
        for other in (q[:, :0], q[:, ::2], q.T, q[0, 0]):
            refused(norm, other)
    for weight in (
        torch.ones(4, 4),
        torch.full((16,), math.nan),
        torch.full((16,), math.inf),
        "a",
        [[1.0], [1.0, 2.0]],
    ):
        refused(IntegerRMSNorm, weight, **NUMBERS)
        refused(IntegerLayerNorm, weight, None, **NUMBERS)


def test_lists_are_weights_too():
    q = torch.randint(-128, 128, (4, 16)).to(torch.int8)
    given = torch.linspace(-1, 1, 16)
    for form in (given.tolist(), given.numpy()):
        assert torch.equal(IntegerRMSNorm(form, **NUMBERS)(q), IntegerRMSNorm(given, **NUMBERS)(q))
        want = IntegerLayerNorm(given, given, **NUMBERS)(q)
        assert torch.equal(IntegerLayerNorm(form, form, **NUMBERS)(q), want)
