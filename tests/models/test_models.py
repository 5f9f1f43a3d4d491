"""Loading models and texts."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lutc.errors import LutcError
from lutc.models import gguf
from lutc.models.hugging_face import auto_class
from lutc.models.loading import advised, load
from lutc.models.texts import batches, document_batches, documents, windows
from tests.helpers import tiny_models


def test_kinds_dtypes_and_weights(folders):
    for name, kind in (("llama", "causal"), ("bert", "encoder")):
        loaded = load(folders[name], dtype="bf16")
        assert loaded.kind == kind
        assert next(loaded.model.parameters()).dtype == torch.bfloat16 and not loaded.model.training
    want = tiny_models.llama().state_dict()
    got = load(folders["llama"]).model.state_dict()
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    assert type(load(folders["llama"], task="AutoModel").model).__name__ == "LlamaModel"


def test_a_device_map_with_limits_leaves_the_rest_on_disk(folders):
    pytest.importorskip("accelerate")
    whole, spread = load(folders["llama"]), load(folders["llama"], dtype="fp32", device_map="auto:cpu=0.1MB")
    assert {"cpu", "disk"} == {str(place) for place in spread.model.hf_device_map.values()} and spread.kind == "causal"
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(spread.model(ids).logits, whole.model(ids).logits)


def test_class_by_config():
    def config(model_type, *architectures, **more):
        return SimpleNamespace(model_type=model_type, architectures=list(architectures), **more)

    assert auto_class(config("llama", "LlamaForCausalLM")) == "AutoModelForCausalLM"
    assert auto_class(config("llama")) == "AutoModelForCausalLM"
    assert auto_class(config("llama", "LlamaModel")) == "AutoModel"
    assert auto_class(config("gpt2", "GPT2LMHeadModel")) == "AutoModelForCausalLM"
    assert auto_class(config("bert", "BertForMaskedLM")) == "AutoModel"
    assert auto_class(config("bert")) == "AutoModel"
    assert (
        auto_class(config("distilbert", "DistilBertForSequenceClassification")) == "AutoModelForSequenceClassification"
    )
    with pytest.raises(LutcError, match="encoder-decoder"):
        auto_class(config("t5", "T5ForConditionalGeneration", is_encoder_decoder=True))


def test_windows_follow_the_text(folders):
    text = folders["text"].read_text()
    wanted = [tiny_models.WORDS.index(word) for word in text.split()]
    ids = windows(tiny_models.tokenizer(), text, 16)
    assert ids.shape == (len(wanted) // 16, 16) and ids.dtype == torch.int64
    assert ids.flatten().tolist() == wanted[: ids.numel()]
    assert torch.equal(windows(tiny_models.tokenizer(), text, 16, 50), ids[:3])
    long = " ".join([text] * 40)  # more than one piece
    assert windows(tiny_models.tokenizer(), long, 16).flatten().tolist() == (wanted * 40)[: 40 * len(wanted) // 16 * 16]


def test_each_window_begins_as_the_tokenizer_begins_a_text():
    class Beginning:
        def __call__(self, text, add_special_tokens=True, verbose=False):
            return {"input_ids": [1] * add_special_tokens + [10 + len(word) for word in text.split()]}

    assert windows(Beginning(), "a aa aaa aaaa a aa", 4).tolist() == [[1, 11, 12, 13], [1, 14, 11, 12]]


def test_documents(folders):
    lines = documents(folders["text"])
    found = batches(load(folders["bert"]), folders["text"], seqlen=12, batch=7)
    assert len(lines) == 60 and len(found) == 9
    for i, line in enumerate(lines):
        row = found[i // 7]["input_ids"][i % 7][found[i // 7]["attention_mask"][i % 7].bool()]
        assert row.tolist() == [tiny_models.WORDS.index(word) for word in line.split()][:12]
    some = list(document_batches(tiny_models.tokenizer(), lines, 7, 12, max_tokens=200))
    assert 0 < sum(int(batch["attention_mask"].sum()) for batch in some) <= 200


def test_python_files(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(
        "import torch\ndef model(): return torch.nn.Linear(3, 2).double()\ndef batches(): return (torch.ones(2, 3) for "
        "_ in range(4))\n"
    )
    loaded = load(path)
    assert loaded.kind == "other" and loaded.model.weight.dtype == torch.float64
    assert len(batches(loaded, None)) == 4
    with pytest.raises(LutcError, match="leave `text` out"):
        batches(loaded, path)
    with pytest.raises(LutcError, match="leave `device_map` out"):
        load(path, device_map="auto")
    path.write_text("def model(): return 3\n")
    with pytest.raises(LutcError, match="gives a int; it must give a torch.nn.Module"):
        load(path)
    path.write_text("import torch\ndef model(): return torch.nn.Linear(3, 2)\n")
    with pytest.raises(LutcError, match="brings no tokenizer"):
        _ = load(path).tokenizer


def test_errors(folders, tmp_path, monkeypatch):
    text = tmp_path / "short.txt"
    text.write_text("w1 w2 w3")
    llama = load(folders["llama"])
    for what, words in [
        (lambda: load(tmp_path / "none"), "there is no .*none"),
        (lambda: load(tmp_path), "no config.json"),
        (lambda: load(text), "neither a GGUF file"),
        (lambda: load(folders["llama"], dtype="fp8"), "one of fp32, fp16, bf16; given 'fp8'"),
        (lambda: load(folders["llama"], task="AutoNothing"), "no class 'AutoNothing'"),
        (lambda: load(folders["llama"], device="abacus"), "no device is called"),
        (
            lambda: load(folders["llama"], device_map="auto:cpu=2"),
            "`device_map` auto:cpu=2: limits are of GPUs by number and of cpu, as in auto:0=",
        ),
        (lambda: batches(llama, text), "3 tokens, less than one window of 512"),
        (lambda: batches(llama, None), "give `text` FILE"),
        (lambda: batches(llama, tmp_path / "none.txt"), "cannot be read"),
        (lambda: batches(llama, text, seqlen=1), "at least 2 tokens"),
        (lambda: batches(llama, text, seqlen=64, max_tokens=10), "less than one window"),
    ]:
        with pytest.raises(LutcError, match=words):
            what()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LutcError, match="`device` cuda: torch finds no GPU here"):
        load(folders["llama"], device="cuda")


def test_tokenizer_is_missing(tmp_path):
    """transformers would make up a tokenizer of five tokens for BERT."""
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "bert", with_tokenizer=False)
    loaded = load(folder)
    with pytest.raises(LutcError, match="holds no tokenizer .*`tokenizer`"):
        _ = loaded.tokenizer
    other = tmp_path / "tokenizer"
    tiny_models.tokenizer().save_pretrained(other)
    assert load(folder, tokenizer=other).tokenizer("w5")["input_ids"] == [8]


def test_out_of_memory_gives_advice():
    with pytest.raises(LutcError, match="out of GPU memory while loading x; take `dtype` bf16"), advised("loading x"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another"), advised("loading x"):
        raise RuntimeError("another")


def _gguf(path):
    """A tiny llama as a GGUF file: weights whose values fp16 holds."""
    written = pytest.importorskip("gguf")
    model = tiny_models.llama(tie_word_embeddings=True, vocab_size=len(tiny_models.WORDS))
    state = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    writer = written.GGUFWriter(path, "llama")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_context_length(64)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(97 + i) for i in range(26)]
    tokens = ["<unk>", "<s>", "</s>", *letters, *(a + b for a in "ab" for b in letters)][: config.vocab_size]
    writer.add_token_list(tokens)
    writer.add_token_merges([f"{token[0]} {token[1]}" for token in tokens[29:]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
    }
    names |= {"mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k"}
    for name, tensor in state.items():
        part = name.removeprefix("model.").removesuffix(".weight")
        if part.startswith("layers."):
            _, index, rest = part.split(".", 2)
            if rest in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF interleaves the halves of a rotated head
                heads = config.num_attention_heads if rest.endswith("q_proj") else config.num_key_value_heads
                tensor = tensor.view(heads, 2, -1, tensor.shape[-1]).transpose(1, 2).reshape(tensor.shape)
            writer.add_tensor(f"blk.{index}.{names[rest]}.weight", np.ascontiguousarray(tensor.numpy()))
        elif part in ("embed_tokens", "norm"):
            writer.add_tensor({"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[part], tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def test_gguf_is_unpacked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("accelerate")
    state = _gguf(tmp_path / "tiny.gguf")
    loaded = load(tmp_path / "tiny.gguf")
    got = loaded.model.state_dict()
    assert loaded.kind == "causal" and all(torch.equal(got[name], tensor) for name, tensor in state.items())
    assert loaded.tokenizer("ab")["input_ids"][-1:] == [loaded.tokenizer.convert_tokens_to_ids("ab")]
    (made,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(gguf, "_unpack", None)  # not called again
    assert load(tmp_path).folder == made
    os.utime(tmp_path / "tiny.gguf", (1, 1))
    assert gguf.key(tmp_path / "tiny.gguf", torch.float32) != made.name
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(LutcError, match="2 GGUF files; give the path of one"):
        load(tmp_path)


def test_broken_gguf_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(LutcError, match="bad.gguf cannot be read as GGUF"):
        load(tmp_path / "bad.gguf")
    assert list((tmp_path / "cache").iterdir()) == []
