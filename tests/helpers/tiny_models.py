"""Small random models with a tokenizer, saved as Hugging Face folders, and a text in their words."""

import random
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[UNK]", "[EOS]", "[PAD]", *(f"w{i}" for i in range(47))]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "initializer_range": 0.3,
}


def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]", pad_token="[PAD]"
    )


def llama(**options):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 2, **options})
    ).eval()


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False).eval()


def save(model, folder: Path, with_tokenizer: bool = True) -> Path:
    model.save_pretrained(folder)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder


def text(lines: int = 60, words: int = 20) -> str:
    chooser = random.Random(0)
    return "\n".join(
        " ".join(chooser.choice(WORDS[3:]) for _ in range(chooser.randint(words // 2, words))) for _ in range(lines)
    )
