import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lutc.taylor.blocks import Block

sys.path.insert(0, str(Path(__file__).parent))
from taylor_model import Model  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def batches():
    """Sixteen batches of 16 documents of up to 10 tokens."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for _ in range(16):
        lengths = torch.randint(3, 11, (16, 1), generator=generator)
        mask = (torch.arange(10)[None] < lengths).long()
        result.append({"input_ids": torch.randint(50, (16, 10), generator=generator), "attention_mask": mask})
    return result


@pytest.fixture
def block():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 5)).requires_grad_(False).eval()
    return Block("mlp", ("",), (module,))
