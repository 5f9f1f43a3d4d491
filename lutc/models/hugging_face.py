"""What loading a folder and loading a GGUF file share of transformers: kinds of models, tokenizers, silence."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from lutc.errors import LutcError

KINDS = ("causal", "encoder", "classifier", "other")
# What a tokenizer's vocabulary is stored as; without one transformers makes up a tokenizer of five tokens for some
# models.
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "*.gguf")


def load_tokenizer(folder: Path, **options) -> Any:
    """The tokenizer in `folder`, with a padding token."""
    from transformers import AutoTokenizer

    if not any(next(Path(folder).glob(pattern), None) for pattern in _VOCABULARIES):
        raise LutcError(
            f"{folder} holds no tokenizer (no tokenizer.json or vocabulary); give a folder that has one with "
            "`tokenizer`"
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise LutcError(
            f"the tokenizer in {folder} cannot be loaded: {first_line(error)}; give another with `tokenizer`"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers' warnings and reports stay out of a command's output, and its progress bars too where there is no
    terminal.
    """
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with warnings.catch_warnings(), bars:
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def auto_class(config: Any, source: str | Path = "the model") -> str:
    """The class of transformers that loads a checkpoint for what it does: next tokens, classes, or hidden states."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    architecture = next(iter(config.architectures or []), "")
    if "ForSequenceClassification" in architecture:
        return "AutoModelForSequenceClassification"
    if getattr(config, "is_encoder_decoder", False):
        raise LutcError(
            f"{source} is an encoder-decoder ({architecture or config.model_type}); give a causal LM, an encoder or a "
            "classifier"
        )
    causal = (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if kind_of(architecture) == "causal" or causal and not architecture.endswith("Model"):
        return "AutoModelForCausalLM"
    return "AutoModel"


def kind_of(model: nn.Module | str) -> str:
    """What a model of a class is for, by the name of the class."""
    name = model if isinstance(model, str) else type(model).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if "ForSequenceClassification" in name:
        return "classifier"
    return "encoder" if name.endswith("Model") else "other"


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
