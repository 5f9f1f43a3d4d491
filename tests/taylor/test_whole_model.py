import pytest
import torch

from lutc.errors import LutcError
from lutc.taylor.blocks import find_blocks
from lutc.taylor.cluster import nearest
from lutc.taylor.collector import collect
from lutc.taylor.distillation import distil, relative_error
from lutc.taylor.evaluation import evaluate
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.module import TaylorMLP
from lutc.taylor.radius import recalibrate
from tests.helpers.taylor_model import PATTERN


def compiled(model, batches, folder, **settings):
    inputs = collect(model, PATTERN, batches, folder)
    mlps = {}
    for block in find_blocks(model, PATTERN):
        table = fit(block, inputs, TaylorSettings(post_norm=True, **settings))
        mlps[block.name] = TaylorMLP(table, block.as_module if table.radii is not None else None)
    return mlps


def by_hand(model, batch, mlps=None):
    """The model's mean output over unmasked positions, layer by layer; and the inputs of each block."""
    x, seen = model.embed(batch["input_ids"]), []
    for layer, mlp in zip(model.layers, mlps.values() if mlps else [None] * len(model.layers)):
        seen.append(x[batch["attention_mask"].bool()])
        x = layer.norm(x + (layer.output.dense(layer.intermediate(x)) if mlp is None else mlp(x)))
    mask = batch["attention_mask"][..., None]
    return (x * mask).sum(1) / mask.sum(1), seen


def test_evaluation_is_what_the_replaced_model_gives(model, batches, tmp_path):
    mlps = compiled(model, batches, tmp_path, k=3, fallback=0.2)
    with torch.no_grad():
        found = evaluate(model, mlps, batches[:2])
        wanted = torch.cat([by_hand(model, batch)[0] for batch in batches[:2]])
        given = torch.cat([by_hand(model, batch, mlps)[0] for batch in batches[:2]])
        torch.testing.assert_close(found.cosines, torch.cosine_similarity(given, wanted))
        for index, (name, mlp) in enumerate(mlps.items()):
            rows = torch.cat([by_hand(model, batch, mlps)[1][index] for batch in batches[:2]])
            far = mlp.far(rows, nearest(rows, mlp.centres)).float().mean()
            assert found.fallback[name] == pytest.approx(float(far))
    exact = 12 * 48 + 48 * 12
    assert found.exact_multiply_adds == 2 * exact
    assert found.multiply_adds == pytest.approx(
        sum(3 * 12 + 12 * 12 + share * exact for share in found.fallback.values())
    )
    assert found.bytes == found.exact_bytes + 2 * 4 * 3 * (12 * 12 + 12 + 12 + 1)
    with pytest.raises(LutcError, match="no batches"):
        evaluate(model, mlps, [])


def test_recalibrated_radii_give_the_share_in_the_replaced_model(model, batches, tmp_path):
    mlps = compiled(model, batches, tmp_path, k=2, fallback=0.3)
    recalibrate(model, mlps, batches, 0.1)
    for share in evaluate(model, mlps, batches).fallback.values():
        # The toy knows 50 tokens, so a share moves in steps of about 0.02.
        assert share == pytest.approx(0.1, abs=0.025)


def test_distillation_brings_the_outputs_nearer_and_leaves_the_rest_alone(model, batches, tmp_path):
    mlps = compiled(model, batches, tmp_path, k=2, fit="taylor")
    before = evaluate(model, mlps, batches).cosine
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = distil(model, mlps, batches, steps=60, rate=3e-3)
    assert len(losses) == 60
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    assert evaluate(model, mlps, batches).cosine > before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_distillation_needs_something_to_train(model, batches, tmp_path):
    mlps = compiled(model, batches, tmp_path, k=2, format="int8")
    with pytest.raises(LutcError, match="nothing to train"):
        distil(model, mlps, batches)


def test_relative_error_ignores_masked_positions():
    wanted = torch.ones(2, 3, 4)
    given = wanted.clone()
    given[1, 2] = 9
    given[0, 0] = 2
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert float(relative_error(given, wanted, mask)) == pytest.approx(4 / 20)
