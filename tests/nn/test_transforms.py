"""torch.func, forward mode and second derivatives: tables against the exact functions of torch, whose derivatives they
pass on.
"""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn import functional as F

from lutc.nn import LUT, LUTLayerNorm, LUTRMSNorm, LUTSoftmax
from tests.helpers.handmade import float_tables

# torch's own jvp compiles its decompositions with torch.jit
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

GELU = float_tables("gelu", -8, 8, 4000)
EXP, RSQRT = float_tables("exp", -30, 0, 4000), float_tables("rsqrt", 1, 4, 1000)


def pairs():
    torch.manual_seed(0)
    norm, plain = LUTLayerNorm(5, rsqrt=RSQRT).double(), torch.nn.LayerNorm(5).double()
    root, rms = LUTRMSNorm(5, 1e-5, rsqrt=RSQRT).double(), torch.nn.RMSNorm(5, 1e-5).double()
    for one, other in ((norm, plain), (root, rms)):
        for name, parameter in one.named_parameters():
            torch.nn.init.normal_(parameter)
            other.get_parameter(name).data.copy_(parameter)
    softmax = LUTSoftmax(EXP), torch.nn.Softmax(-1)
    return {"lut": (LUT(GELU), F.gelu), "softmax": softmax, "layer norm": (norm, plain), "rms norm": (root, rms)}


NAMES = list(pairs())


def cube(f):
    """Of f, a number that is not linear in it."""
    return lambda x: (f(x) * torch.arange(1.0, x.shape[-1] + 1, dtype=x.dtype)).sum().sin()


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)  # the table errs by less; a wrong derivative by more


@pytest.mark.parametrize("name", NAMES)
def test_torch_func(name):
    module, exact = pairs()[name]
    x, v = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    close(vmap(module)(x), exact(x))
    close(vmap(grad(cube(module)))(x), vmap(grad(cube(exact)))(x))
    close(jacrev(module)(x[0]), jacrev(exact)(x[0]))
    close(jacfwd(module)(x[0]), jacfwd(exact)(x[0]))
    close(jvp(module, (x,), (v,))[1], jvp(exact, (x,), (v,))[1])
    close(vjp(module, x)[1](v)[0], vjp(exact, x)[1](v)[0])
    close(vmap(hessian(cube(module)))(x), vmap(hessian(cube(exact)))(x))


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode(name):
    module, exact = pairs()[name]
    x, v = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    with forward_ad.dual_level():
        got, want = (forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent for f in (module, exact))
    close(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name):
    """As gradient penalties take them."""
    module, exact = pairs()[name]
    x = torch.randn(3, 5).double().requires_grad_()
    got, want = (
        torch.autograd.grad(torch.autograd.grad(cube(f)(x), x, create_graph=True)[0].square().sum(), x)[0]
        for f in (module, exact)
    )
    close(got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_slopes_of_the_table(dtype):
    """grad="table" under transforms, bit for bit as without them."""
    act, x = LUT(GELU, grad="table"), torch.linspace(-8, 8, 101, dtype=dtype)
    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(act(leaf).sum(), leaf)
    assert torch.equal(vmap(grad(act))(x), want)
    assert torch.equal(jvp(act, (x,), (torch.ones_like(x),))[1], want)
    assert not vmap(grad(grad(act)))(x).any() and not jacfwd(jacrev(act))(x).any()


def test_gated_products():
    act, x, y = LUT(GELU), torch.randn(2, 6), torch.randn(2, 6)
    assert torch.equal(vmap(act.gated)(x, y), act.gated(x, y))
    for one, other in zip(
        grad(lambda x, y: act.gated(x, y).sum(), (0, 1))(x, y), grad(lambda x, y: (F.gelu(x) * y).sum(), (0, 1))(x, y)
    ):
        close(one, other)


def test_an_ensemble_of_norms():
    """vmap over weights as well, and derivatives in them."""
    modules, x = [pairs()["layer norm"][0] for _ in range(3)], torch.randn(4, 5).double()
    for module in modules:
        torch.nn.init.normal_(module.weight)
    parameters, buffers = stack_module_state(modules)
    parameters = {name: value.detach() for name, value in parameters.items()}
    call = lambda p, b: functional_call(modules[0], (p, b), (x,))  # noqa: E731
    close(vmap(call)(parameters, buffers), torch.stack([module(x) for module in modules]))
    one = {name: value[0] for name, value in parameters.items()}
    first = {name: value[0] for name, value in buffers.items()}
    got = grad(lambda p: call(p, first).sin().sum())(one)
    want = grad(lambda p: F.layer_norm(x, (5,), p["weight"], p["bias"]).sin().sum())(one)
    for name in got:
        close(got[name], want[name])
    tangent = jvp(lambda p: call(p, first), (one,), ({name: torch.ones_like(p) for name, p in one.items()},))[1]
    close(tangent, F.layer_norm(x, (5,)) + 1)


def test_an_ensemble_of_tables():
    modules = [LUT(name) for name in ("gelu_8", "silu_8")]
    words = torch.stack([torch.nn.functional.pad(m.plan_fp32, (0, 64 - m.plan_fp32.numel())) for m in modules])
    metas = {m._plans[torch.float32].meta for m in modules}
    assert len(metas) == 1  # of one kind, so that one call can serve both
    x = torch.randn(2, 100)
    want = torch.stack([module(row) for module, row in zip(modules, x)])
    run = lambda x, words: torch.ops.lutc.lut(x, words, *metas, "table")  # noqa: E731
    assert torch.equal(vmap(run)(x, words), want)
    assert torch.equal(vmap(lambda x, words: torch.ops.lutc.lut_mul(x, x, words, *metas, "table"))(x, words), want * x)
