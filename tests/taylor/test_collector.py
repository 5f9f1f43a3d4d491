import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lutc.errors import LutcError
from lutc.taylor.blocks import find_blocks, replace, restore
from lutc.taylor.collector import collect
from lutc.taylor.inputs import BlockInputs
from tests.helpers.taylor_model import PATTERN, Model

FIRST, SECOND = "layers.0:intermediate+output.dense", "layers.1:intermediate+output.dense"


def true_inputs(model, batches):
    """What the second block is given at unmasked positions, computed apart from the hooks."""
    parts = []
    for batch in batches:
        x = model.layers[0](model.embed(batch["input_ids"]))
        parts.append(x[batch["attention_mask"].bool()])
    return torch.cat(parts).detach()


def test_inputs_are_those_that_the_block_sees_without_padding(model, batches, tmp_path):
    inputs = collect(model, PATTERN, batches, tmp_path)
    assert inputs.blocks == {FIRST: 12, SECOND: 12}
    assert inputs.rows == sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert inputs.documents() == 256
    torch.testing.assert_close(torch.cat(list(inputs.chunks(SECOND, rows=37))), true_inputs(model, batches))


def test_whole_documents_are_held_out(model, batches, tmp_path):
    inputs = collect(model, PATTERN, batches, tmp_path)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches])
    held = torch.cat(list(inputs.chunks(FIRST, held_out=True)))
    rest = torch.cat(list(inputs.chunks(FIRST, held_out=False)))
    assert len(held) == int(lengths[9::10].sum())
    assert len(held) + len(rest) == inputs.rows


class Interrupted(Exception):
    pass


def test_interrupted_run_resumes(model, batches, tmp_path):
    def broken():
        yield from batches[:5]
        raise Interrupted

    with pytest.raises(Interrupted):
        collect(model, PATTERN, broken(), tmp_path / "a", shard_bytes=10_000)
    written = len(list((tmp_path / "a").glob("shard-*")))
    assert written >= 2
    resumed = collect(model, PATTERN, batches, tmp_path / "a", shard_bytes=10_000)
    whole = collect(model, PATTERN, batches, tmp_path / "b")
    assert len(resumed.shards) > written
    torch.testing.assert_close(torch.cat(list(resumed.chunks(SECOND))), torch.cat(list(whole.chunks(SECOND))))
    assert resumed.documents() == whole.documents()
    # Complete: a third run adds nothing.
    assert collect(model, PATTERN, batches, tmp_path / "a", shard_bytes=10_000).rows == whole.rows


def test_limit_and_storage_dtype(model, batches, tmp_path):
    inputs = collect(model, PATTERN, batches, tmp_path, limit=100, dtype="fp16")
    assert 100 <= inputs.rows < 300
    assert load_file(inputs.shards[0])[FIRST].dtype == torch.float16
    assert len(inputs.sample(FIRST, 50)) == 50
    assert sum(map(len, inputs.chunks(FIRST, limit=30))) == 30


def test_tensors_tuples_and_train_mode(tmp_path):
    mlp = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model = nn.Sequential(nn.Linear(3, 4), mlp)
    batches = [torch.randn(5, 3), (torch.randn(5, 3),)]
    with pytest.warns(UserWarning, match="train mode with dropout"):
        inputs = collect(model, "1", batches, tmp_path)
    assert inputs.rows == inputs.documents() == 10
    assert mlp.training


def test_errors(model, batches, tmp_path):
    with pytest.raises(LutcError, match="no module of Model matches 'nothing.*'"):
        collect(model, "nothing.*", batches, tmp_path)
    with pytest.raises(LutcError, match="no batches"):
        collect(model, PATTERN, [], tmp_path)
    with pytest.raises(LutcError, match="fp32, fp16, bf16"):
        collect(model, PATTERN, batches, tmp_path, dtype="int4")
    collect(model, PATTERN, batches, tmp_path / "a")
    with pytest.raises(LutcError, match="dtype: 'fp32', now 'fp16'"):
        collect(model, PATTERN, batches, tmp_path / "a", dtype="fp16")
    with pytest.raises(LutcError, match="holds no inputs of 'x'"):
        next(BlockInputs(tmp_path / "a").chunks("x"))
    with pytest.raises(LutcError, match="no inputs.json"):
        BlockInputs(tmp_path / "b")
    model.embed.weight.data[3] = torch.nan
    with pytest.raises(LutcError, match="inputs of layers.0.* in batch 0 are NaN"):
        collect(model, PATTERN, batches, tmp_path / "c")
    assert not list((tmp_path / "c").glob("*")) if (tmp_path / "c").exists() else True


def test_damaged_shards(model, batches, tmp_path):
    shard = collect(model, PATTERN, batches, tmp_path).shards[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(LutcError, match="truncated or altered"):
        BlockInputs(tmp_path)
    save_file({"other": torch.zeros(3, 3)}, shard)
    with pytest.raises(LutcError, match="does not belong"):
        BlockInputs(tmp_path)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return self.mlp(self.mlp(x))


def test_blocks_called_twice_or_never(tmp_path):
    with pytest.raises(LutcError, match="more than once"):
        collect(Twice(), "mlp", [torch.randn(2, 3)], tmp_path)
    with pytest.raises(LutcError, match="was not called"):
        collect(Twice(), "unused", [torch.randn(2, 3)], tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (PATTERN, [FIRST, SECOND]),
        (None, [FIRST, SECOND]),
        ("layers.1:intermediate+output.dense", [SECOND]),
        ("layers.*.intermediate", ["layers.0.intermediate", "layers.1.intermediate"]),
        ("**.intermediate", ["layers.0.intermediate", "layers.1.intermediate"]),
        (["layers.0.output.dense", "embed"], ["layers.0.output.dense", "embed"]),
    ],
)
def test_find_blocks(pattern, names):
    assert [block.name for block in find_blocks(Model(), pattern)] == names


def test_replace_and_restore(model, batches):
    class Zero(nn.Module):
        in_features = out_features = 12

        def forward(self, x):
            return torch.zeros_like(x)

    exact = model(**batches[0])
    keys = set(model.state_dict())
    x = model.embed(batches[0]["input_ids"])
    assert replace(model, {FIRST: Zero(), SECOND: Zero()}) is model
    torch.testing.assert_close(model(**batches[0]), model.layers[1].norm(model.layers[0].norm(x)))
    assert not any("intermediate" in key or "dense" in key for key in model.state_dict())
    with pytest.raises(LutcError, match="replaced already"):
        replace(model, {FIRST: Zero()})
    restore(model)
    assert set(model.state_dict()) == keys
    torch.testing.assert_close(model(**batches[0]), exact)


def test_replace_refuses_and_changes_nothing(model, batches):
    class Wrong(nn.Module):
        in_features, out_features = 12, 11

    exact = model(**batches[0])
    with pytest.raises(LutcError, match="maps 12 to 12 features, its replacement 12 to 11"):
        replace(model, {FIRST: nn.Identity(), SECOND: Wrong()})
    with pytest.raises(LutcError, match="matches 2 blocks"):
        replace(model, {PATTERN: nn.Identity()})
    torch.testing.assert_close(model(**batches[0]), exact)


def test_modules_that_mix_rows_or_take_more(tmp_path):
    from lutc.taylor.blocks import Block, check_block

    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0)

    class Pair(nn.Module):
        def forward(self, x, y):
            return x + y

    class Tuple(nn.Module):
        def forward(self, x):
            return x, x

    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    cases = [
        (Centred(), "mixes rows"),
        (Pair(), "does not run on one tensor"),
        (Tuple(), "maps a tensor .* to tuple"),
        (Counting(), "second call"),
    ]
    for module, words in cases:
        with pytest.raises(LutcError, match=words):
            check_block(Block("b", ("",), (module,)), torch.randn(8, 3))


def test_parts_hold_what_one_process_holds(model, batches, tmp_path):
    whole = collect(model, PATTERN, batches, tmp_path / "whole")
    for index in (2, 0, 1):
        part = collect(model, PATTERN, batches, tmp_path / "parts", shard_bytes=10_000, part=(index, 3))
        assert part.rows < whole.rows / 2
        if index != 1:  # one is missing
            with pytest.raises(LutcError, match="part-|no collected inputs"):
                BlockInputs(tmp_path / "parts")
    together = BlockInputs(tmp_path / "parts")
    assert together.rows == whole.rows and together.documents() == whole.documents()
    for held_out in (True, False):
        a, b = (torch.cat(list(inputs.chunks(SECOND, held_out))) for inputs in (whole, together))
        assert a.shape == b.shape
        assert torch.equal(a[a[:, 0].sort(stable=True).indices], b[b[:, 0].sort(stable=True).indices])
    assert len(together.sample(FIRST, 50)) == 50
    half = collect(model, PATTERN, batches, tmp_path / "half", limit=100, part=(1, 2))
    assert 50 <= half.rows < 50 + 160
    with pytest.raises(LutcError, match="part 2 of 2 does not exist"):
        collect(model, PATTERN, batches, tmp_path / "half", part=(2, 2))
    with pytest.raises(LutcError, match="collected otherwise"):
        collect(model, PATTERN, batches, tmp_path / "parts", shard_bytes=10_000, part=(1, 4))


def test_an_interrupted_part_resumes(model, batches, tmp_path):
    def broken():
        yield from batches[:9]
        raise Interrupted

    with pytest.raises(Interrupted):
        collect(model, PATTERN, broken(), tmp_path / "a", shard_bytes=5_000, part=(1, 2))
    assert list((tmp_path / "a" / "part-1").glob("shard-*"))
    resumed = collect(model, PATTERN, batches, tmp_path / "a", shard_bytes=5_000, part=(1, 2))
    at_once = collect(model, PATTERN, batches, tmp_path / "b", part=(1, 2))
    assert torch.equal(torch.cat(list(resumed.chunks(FIRST))), torch.cat(list(at_once.chunks(FIRST))))
    assert resumed.documents() == at_once.documents() == 256


SCRIPT = """
import sys, torch
from lutc.observe.ranks import Ranks
from lutc.taylor import BlockInputs, OnlineKMeans, collect
from tests.helpers.taylor_model import PATTERN, Model
ranks = Ranks.here()
torch.manual_seed(0)
model = Model().eval()
ids = torch.randint(50, (6, 8, 10), generator=torch.Generator().manual_seed(1))
part = (ranks.index, ranks.count)
own = collect(model, PATTERN, [{"input_ids": one} for one in ids], sys.argv[1], part=part)
ranks.wait()
assert BlockInputs(sys.argv[1]).rows == 480
means = OnlineKMeans(5)
for x in own.chunks("layers.0:intermediate+output.dense"):
    means.partial_fit(x)
means = means.across_ranks()
assert means.seen == 480 and means.centres.shape == (5, 12)
torch.save(means.centres, f"{sys.argv[1]}/centres-{ranks.index}.pt")
"""


@pytest.mark.slow  # starts processes
def test_ranks_share_a_collection_and_its_centres(tmp_path):
    import os
    import subprocess
    import sys

    from tests.helpers.imports import ROOT

    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", tmp_path / "script.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, tmp_path / "inputs"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / "inputs" / f"centres-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
