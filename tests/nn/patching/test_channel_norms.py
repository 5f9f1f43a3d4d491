"""Norms over groups, instances and batches, and log-softmax, answered by tables where they are called."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc

torch.manual_seed(0)
IMAGES, SIGNALS, ROWS = torch.randn(3, 8, 5, 4) * 3 + 1, torch.randn(3, 8, 11) - 2, torch.randn(6, 8)
CASES = [
    (nn.GroupNorm(2, 8), IMAGES),
    (nn.GroupNorm(1, 8, affine=False), SIGNALS),
    (nn.GroupNorm(2, 8), ROWS),
    (nn.InstanceNorm2d(8, affine=True), IMAGES),
    (nn.InstanceNorm1d(8, track_running_stats=True), SIGNALS),
    (nn.BatchNorm2d(8), IMAGES),
    (nn.BatchNorm1d(8), ROWS),
    (nn.BatchNorm1d(8, track_running_stats=False), SIGNALS),
]


def drawn(module):
    """Weights that tell."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Identity(), module)


@pytest.mark.parametrize(("norm", "x"), CASES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_forward_backward_and_running_statistics(norm, x, dtype):
    exact = drawn(copy.deepcopy(norm)).to(dtype)
    model = copy.deepcopy(exact)
    report = lutc.patch(model, norm="rsqrt_fplut")
    assert len(report.replaced) == 1 and not report.left and not report.unused
    found, wanted = x.to(dtype).clone().requires_grad_(), x.to(dtype).clone().requires_grad_()
    got, want = model(found), exact(wanted)
    assert got.dtype == want.dtype
    assert (got - want).norm() <= (1e-2 if dtype == torch.bfloat16 else 1e-4) * want.norm()
    assert dtype == torch.bfloat16 or not torch.equal(got, want)  # a table did run
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (got * weight).sum().backward()
    (want * weight).sum().backward()
    assert (found.grad - wanted.grad).norm() <= (0.1 if dtype == torch.bfloat16 else 1e-3) * wanted.grad.norm()
    lutc.unpatch(model)
    for name, value in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_batch_norm_with_running_statistics_is_a_line():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.GroupNorm(2, 8)).eval()
    report = lutc.patch(model, norm="rsqrt_fplut")
    assert [one.what for one in report.replaced] == ["group_norm"] and not report.left
    trained = nn.Sequential(nn.BatchNorm2d(8))
    lutc.patch(trained, norm="rsqrt_fplut")
    x = IMAGES + 0
    trained(x)
    trained.eval()
    assert torch.equal(trained(x), copy.deepcopy(lutc.unpatch(trained))(x))


def test_shapes_that_torch_refuses_are_refused_by_torch():
    model = nn.Sequential(nn.BatchNorm1d(4))
    lutc.patch(model, norm="rsqrt_fplut")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(torch.randn(1, 4))


def test_a_group_norm_of_a_net_and_its_audit():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.GELU()).eval()
    report = lutc.patch(model, "gelu_fplut", norm="rsqrt_fplut", audit=torch.randn(2, 3, 8, 8))
    assert not report.audits[1].exact and {one.what for one in report.audits[1].tables} == {"layer_norm", "gelu"}


def test_calibration_sees_them():
    model = nn.Sequential(nn.GroupNorm(2, 8), nn.LogSoftmax(1)).eval()
    calibration = lutc.calibrate(model, [(IMAGES,)])
    operators = {path: (layer.operator, layer.histogram.count) for path, layer in calibration.layers.items()}
    assert operators == {"0 (group_norm)": ("layer_norm", 6), "1 (log_softmax)": ("softmax", IMAGES.numel())}


class Calls(nn.Module):
    def forward(self, x):
        return F.log_softmax(x, -1) + x.log_softmax(dim=0) + F.softmin(x, 1)


@pytest.mark.parametrize("model", [nn.Sequential(nn.LogSoftmax(1)), nn.Sequential(nn.Softmin(1)), Calls()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_log_softmax(model, dtype):
    exact, model = copy.deepcopy(model), copy.deepcopy(model)
    report = lutc.patch(model, softmax="exp_fplut")
    assert report.replaced and not report.left and not report.unused
    x = (torch.randn(5, 9, generator=torch.Generator().manual_seed(2)) * 40).to(dtype)
    x[0, 3:5] = x[0].max()  # two largest
    found, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = model(found), exact(wanted)
    bound = {torch.float16: 2e-3, torch.float32: 1e-4, torch.float64: 1e-4}[dtype]
    torch.testing.assert_close(got, want, rtol=bound, atol=bound)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=5e-3, atol=0.2 if dtype == torch.float16 else 2e-2)


def test_log_softmax_of_masked_rows():
    model = nn.Sequential(nn.LogSoftmax(1))
    x = torch.tensor([[0.0, -torch.inf, 1.0], [torch.nan, 0.0, 1.0], [-torch.inf] * 3, [torch.inf, 0.0, 1.0]])
    want = model(x)
    lutc.patch(model, softmax="exp_fplut")
    torch.testing.assert_close(model(x), want, equal_nan=True)
    assert model(x[:0]).shape == (0, 3)
