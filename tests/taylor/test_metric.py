"""What is felt of an error, against the Jacobians of the whole model."""

import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor import find_blocks, output_metrics
from lutc.taylor.evaluation import pooled_output
from tests.helpers.taylor_model import PATTERN, Model


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("post_norm", [True, False])
def test_metric_is_the_mean_square_of_the_effects(trainable, post_norm):
    torch.manual_seed(0)
    model = Model().eval().requires_grad_(trainable)
    batch = {"input_ids": torch.randint(50, (2, 5)), "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
    metrics = output_metrics(model, PATTERN, [batch] * 1500, post_norm=post_norm)
    assert list(metrics) == [block.name for block in find_blocks(model, PATTERN)]
    for block in find_blocks(model, PATTERN):
        wanted = 0.1 * torch.eye(12) + 0.9 * 12 * _by_definition(model, block, batch, post_norm)
        error = (metrics[block.name].float() - wanted).norm() / wanted.norm()
        assert float(error) < 0.06
        assert float(metrics[block.name].trace()) == pytest.approx(12)
    assert all(parameter.requires_grad == trainable and parameter.grad is None for parameter in model.parameters())


def _by_definition(model, block, batch, post_norm):
    """Trace 1: the Jacobian of the direction of the pooled output by what is added to the block's output."""
    seen = {}

    def direction(e):
        def added(module, arguments, output):
            seen["sum"] = seen["x"] + output
            return output + e

        handles = [
            block.modules[0].register_forward_pre_hook(lambda module, arguments: seen.__setitem__("x", arguments[0])),
            block.modules[-1].register_forward_hook(added),
        ]
        output = nn.functional.normalize(pooled_output(model, batch, "attention_mask"), dim=1)
        for handle in handles:
            handle.remove()
        return output

    jacobian = torch.autograd.functional.jacobian(direction, torch.zeros(2, 5, 12))  # [document, output, document, ...]
    total = torch.zeros(12, 12)
    for document, length in ((0, 5), (1, 3)):
        for token in range(length):
            own = length * jacobian[document, :, document, token]
            total += own.T @ own * (seen["sum"][document, token].var() if post_norm else 1)
    return (total / total.trace()).detach()


def test_a_block_that_is_not_felt_is_one_clear_error():
    model = Model().eval()
    nn.init.zeros_(model.layers[1].norm.weight)
    batch = {"input_ids": torch.randint(50, (2, 5)), "attention_mask": torch.ones(2, 5)}
    for batches in ([], [batch]):
        with pytest.raises(LutcError, match="no gradient reaches layers.0"):
            output_metrics(model, PATTERN, batches)
