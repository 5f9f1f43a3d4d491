"""Tables of many scales in one pass against plain torch operations, which `tests/nn/test_channel_scales.py` holds to
the numpy model: every code, width, rounding and zero point, and scales at which the rule does not hold.
"""

import itertools

import pytest

torch = pytest.importorskip("torch")

from lutc.nn import QuantLUT, code_ops, scale_tables  # noqa: E402

WIDTHS = [("gelu_8", 8, True), ("exp_8", 8, False), ("gelu_8", 5, False), ("exp_8", 3, True), ("gelu_8", 9, True)]
OUTPUTS = [(None, None), *itertools.product((2.0**-4, 0.013), ("half_up", "half_away", "half_even"))]


def scales_of(generator):
    powers = 2.0 ** torch.randint(-9, 2, (5,), generator=generator).double()
    odd = torch.tensor([-1.0, 0.0, torch.nan, 1e-30, 2.0**-60], dtype=torch.float64)
    return torch.cat([powers, torch.rand(5, generator=generator).double() * 0.3 + 1e-3, odd])


@pytest.mark.parametrize("name, bits, signed", WIDTHS)
def test_every_code_of_every_scale(name, bits, signed):
    generator, held = torch.Generator().manual_seed(bits), 0
    for out, rounding in OUTPUTS:
        zero = 0 if out is None else 3
        module = QuantLUT(name, None, 0, out, zero, bits=bits, signed=signed, rounding=rounding, axis=1)
        scales = scales_of(generator) / (1 if bits < 9 else 64)
        zeros = torch.randint(module.minimum, module.maximum + 1, scales.shape, generator=generator, dtype=torch.int32)
        outputs, values, slopes, known = module._responses(scales, zeros)
        table, same = scale_tables.outputs_at(module, scales, zeros)
        assert torch.equal(known, same)
        assert torch.equal(table[known], code_ops.by_bits(outputs, module.minimum, module.dtype)[known])
        found, derivatives, same = scale_tables.values_at(module, scales, zeros, torch.float32, True)
        assert torch.equal(known, same) and torch.equal(derivatives[known], slopes.float()[known])
        assert torch.equal(found.isnan(), values.isnan())
        assert torch.equal(found.nan_to_num(7.0), values.float().nan_to_num(7.0))
        held += int(known.sum())
    assert held > 5 * len(OUTPUTS)


def test_tables_are_made_again_for_other_scales():
    """In place, with another table, and with other zero points; not for the same numbers."""
    x, scales = torch.randn(40, 3), 2.0 ** -torch.arange(2.0, 5.0)
    module, made = QuantLUT("gelu_8", axis=1), []
    for _ in range(2):
        made.append(module(x, scales))
        assert torch.equal(made[-1], QuantLUT("gelu_8", scales.tolist(), axis=1)(x))
        kept = scale_tables._last[module]["values"][2][0]
        module(x, scales.clone())
        assert scale_tables._last[module]["values"][2][0] is kept
        scales *= 0.5
    other = QuantLUT("silu_8", axis=1)
    module.load_state_dict(other.state_dict())
    assert torch.equal(module(x, scales), other(x, scales)) and not torch.equal(*made)
