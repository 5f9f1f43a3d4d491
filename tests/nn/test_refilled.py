"""Modules of every kind behind the meta device, in copies and pickles, and made in inference mode."""

import copy
import pickle

import pytest
import torch

from lutc.nn import LUT, IntegerLayerNorm, IntegerSoftmax, LUTLayerNorm, LUTRMSNorm, LUTSoftmax, QuantLUT, gqa_lut_pwl
from tests.helpers.handmade import int_tables

GELU = int_tables("gelu")
FLOATS, CODES = torch.linspace(-3, 3, 24).view(3, 8), torch.arange(-12, 12, dtype=torch.int8).view(3, 8)


def gqa(tmp_path):
    GELU.save(tmp_path / "gelu.json")
    return gqa_lut_pwl("gelu", tmp_path / "gelu.json", min(6, max(map(int, GELU))))


MODULES = {
    "LUT": (lambda _: LUT(GELU), (FLOATS,)),
    "softmax": (lambda _: LUTSoftmax("exp_8", "reci_8"), (FLOATS,)),
    "rms norm": (lambda _: LUTRMSNorm(8, elementwise_affine=False), (FLOATS,)),
    "layer norm": (lambda _: LUTLayerNorm(8, elementwise_affine=False), (FLOATS,)),
    "codes": (lambda _: QuantLUT(GELU, 2.0**-4, out_scale=2.0**-4), (CODES,)),
    "integer softmax": (lambda _: IntegerSoftmax(), (CODES,)),
    "integer norm": (
        lambda _: IntegerLayerNorm(torch.arange(1.0, 9.0), torch.ones(8), scale=2.0**-4, out_scale=2.0**-4),
        (CODES,),
    ),
    "gqa": (gqa, (CODES.float(), 2.0**-3)),
}


@pytest.mark.parametrize("name", MODULES)
def test_to_empty_brings_the_table_back(name, tmp_path):
    make, given = MODULES[name]
    module = make(tmp_path)
    want = module(*given)
    got = copy.deepcopy(module).to("meta").to_empty(device="cpu")
    assert torch.equal(got(*given), want)
    assert all(torch.equal(buffer, module.get_buffer(path)) for path, buffer in got.named_buffers())
    if name in ("integer softmax", "integer norm", "gqa"):
        return  # made on the CPU in any case, and their numbers may be a checkpoint's
    with torch.device("meta"):
        got = make(tmp_path).to_empty(device="cpu")
    assert torch.equal(got(*given), want)
    assert all(torch.equal(buffer, module.get_buffer(path)) for path, buffer in got.named_buffers())


@pytest.mark.parametrize("name", MODULES)
def test_copies_and_pickles(name, tmp_path):
    make, given = MODULES[name]
    module = make(tmp_path)
    want = module(*given)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(*given), want) and set(dict(other.named_buffers())) == set(
            dict(module.named_buffers())
        )


def test_pickles_of_row_operators_hold_no_plans():
    """A later version may lay them out in another way."""
    module = LUTSoftmax("exp_8", "reci_8")
    assert set(module.__getstate__()["_buffers"]) == {"exp_table", "reciprocal_table"}
    assert copy.deepcopy(module).exp_fast.data_ptr() == module.exp_fast.data_ptr()


@pytest.mark.parametrize("name", ["LUT", "softmax", "layer norm"])
def test_training_with_a_table_from_inference_mode(name):
    """The plans are shared, with modules that train too."""
    make, (x,) = MODULES[name]
    with torch.inference_mode():
        first = make(None)
    for module in (first, make(None)):
        leaf = x.clone().requires_grad_()
        assert torch.autograd.grad(module(leaf).square().sum(), leaf)[0].any()
