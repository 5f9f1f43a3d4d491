"""A table for each channel."""

import pytest
import torch
from torch import nn

import lutc
from lutc.errors import LutcError
from lutc.nn import LUT, ChannelLUT


def test_every_channel_has_its_table():
    names = ["silu_8", "gelu_8", "silu_8", "tanh_8"]
    channels = ChannelLUT(names, 1)
    assert len(channels.luts) == 3
    for shape in ((5, 4), (2, 4, 3, 7), (1, 4, 0)):
        x = torch.randn(shape) * 3
        want = torch.stack([LUT(name)(x.select(1, i)) for i, name in enumerate(names)], 1)
        assert torch.equal(channels(x), want)
    last = ChannelLUT(names, -1)
    x = torch.randn(3, 4)
    assert torch.equal(last(x), channels(x)) and torch.equal(last(x.half()), channels(x.half()))
    restored = ChannelLUT(names, 1)
    restored.load_state_dict(channels.state_dict())
    assert torch.equal(restored(x), channels(x))


def test_a_prelu_of_channels():
    exact = nn.PReLU(3)
    with torch.no_grad():
        exact.weight.copy_(torch.tensor([0.25, -0.5, 0.25]))
    tables = [lutc.compile(f"prelu(weight={w})", 2, search="exact", inputs="grid") for w in (0.25, -0.5, 0.25)]
    x = torch.randn(4, 3, 5) * 4
    channels = ChannelLUT(tables)
    torch.testing.assert_close(channels(x), exact(x), atol=1e-6, rtol=1e-6)
    lutc.patch(model := nn.Sequential(exact), activation={"0": channels})
    torch.testing.assert_close(model(x), exact(x), atol=1e-6, rtol=1e-6)


def test_wrong_inputs():
    with pytest.raises(LutcError, match="a table for each channel; given none"):
        ChannelLUT([])
    with pytest.raises(LutcError, match=r"2 tables for dimension 1; given \(2, 3\)"):
        ChannelLUT(["silu_8", "gelu_8"])(torch.zeros(2, 3))
    with pytest.raises(LutcError, match=r"given \(2,\)"):
        ChannelLUT(["silu_8", "gelu_8"])(torch.zeros(2))
