"""A folder goes into its model wherever that is: under PEFT's adapters, in a SentenceTransformer, in a pipeline."""

import pytest
import torch

import lutc
from lutc.errors import LutcError

transformers = pytest.importorskip("transformers")
from tests.helpers import tiny_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder for the tiny Llama and one for the tiny BERT as transformers loads it, with a pooler."""
    root = tmp_path_factory.mktemp("wrapped")
    batches = [{"input_ids": IDS}]
    bert = transformers.AutoModel.from_pretrained(tiny_models.save(tiny_models.bert(), root / "model"))
    for name, model in (("llama", tiny_models.llama()), ("bert", bert.eval())):
        lutc.compile_model(model, batches, root / name, entries=8, name=name, measure=False, workers=1)
    return root


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_peft(made):
    """Adapters that are there change nothing of the place; those of a trained one are kept."""
    peft = pytest.importorskip("peft")
    plain = tiny_models.llama()
    lutc.apply(plain, made / "llama")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_models.llama(), config).eval()
    exact = logits(model)
    report = lutc.apply(model, made / "llama")
    assert len(report.replaced) == 13 and not report.left
    with model.disable_adapter():
        assert torch.allclose(logits(model), logits(plain), atol=1e-5)
    assert 0 < (logits(model) - exact).norm() < 0.1 * exact.norm()
    lutc.unpatch(model.base_model.model)
    assert torch.equal(logits(model), exact)


def test_a_sentence_transformer(made):
    st = pytest.importorskip("sentence_transformers")
    model = st.SentenceTransformer(str(made / "model"), device="cpu")
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8"]
    exact = model.encode(texts, convert_to_tensor=True)
    assert len(lutc.apply(model, made / "bert").replaced) > 5
    found = model.encode(texts, convert_to_tensor=True)
    cosine = torch.nn.functional.cosine_similarity(found, exact)
    assert (cosine > 0.98).all() and not torch.equal(found, exact)


def test_a_pipeline(made, tmp_path):
    folder = tiny_models.save(tiny_models.llama(), tmp_path / "llama")
    pipe = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    with pytest.raises(LutcError, match="given a TextGenerationPipeline: give its .model"):
        lutc.patch(pipe, "silu_fplut")
    assert len(lutc.apply(pipe, made / "llama").replaced) == 13
    assert pipe("w1 w2 w3", max_new_tokens=3, do_sample=False)[0]["generated_text"].startswith("w1 w2 w3")
    assert pipe.model.model.layers[0].mlp.act_fn.__class__.__module__.startswith("lutc")
    lutc.unpatch(pipe.model)


def test_the_other_model_in_a_wrapper_is_refused(made, tmp_path):
    folder = tiny_models.save(tiny_models.llama(hidden_size=16), tmp_path / "llama")
    pipe = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    with pytest.raises(LutcError, match="the folder was made for llama"):
        lutc.apply(pipe, made / "llama")
