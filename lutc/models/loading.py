"""Models by path: a Hugging Face folder, a GGUF file (or a folder that holds one), or a Python file that defines
model().
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lutc.errors import LutcError
from lutc.models import gguf
from lutc.models.hugging_face import auto_class, first_line, kind_of, load_tokenizer, quiet
from lutc.models.python_file import call

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, ready to be given batches on `device`.

    kind: "causal" (next-token logits), "encoder" (hidden states per token), "classifier" (logits per document) or
    "other". folder: where the config and the tokenizer lie, None for a Python file.
    """

    model: nn.Module
    kind: str
    path: str
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        """Of the first weights, where inputs go; a device map puts the embeddings there."""
        return next((p.device for p in self.model.parameters() if p.device.type != "meta"), torch.device("cpu"))

    @functools.cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the model; LutcError where there is none."""
        if self.folder is None:
            made = call(Path(self.path), "tokenizer", missing=None)
            if made is None:
                raise LutcError(
                    f"{self.path} brings no tokenizer; define tokenizer() beside model(), or batches() and leave "
                    "`text` out"
                )
            return made
        return load_tokenizer(self.folder)


def load(
    path: str | os.PathLike,
    *,
    dtype: str | None = None,
    device: str = "cpu",
    device_map: str | Mapping | None = None,
    task: str | None = None,
    tokenizer: str | os.PathLike | None = None,
) -> Loaded:
    """The model at `path`, in eval mode.

    dtype: "fp32", "fp16", "bf16"; None is fp32 on a CPU and elsewhere the dtype of the checkpoint. device: "cpu",
    "cuda" (under torchrun the GPU of the rank's number), "cuda:1". device_map: as from_pretrained takes it ("auto"
    spreads a model over GPUs, memory and disk), or "auto:0=20GiB,cpu=8GiB" with the most that its weights may take of
    each, and what is left stays on disk; `device` is then unused. task: the class of transformers that loads it, by
    default by the config. tokenizer: a folder with another tokenizer. Raises LutcError, one line, for whatever cannot
    be had.
    """
    source = Path(path).expanduser()
    if not source.exists():
        raise LutcError(
            f"there is no {path}; give a Hugging Face folder, a GGUF file or a Python file that defines model()"
        )
    wanted = _device(device)
    if dtype is not None and dtype not in DTYPES:
        raise LutcError(f"a model's dtype is one of {', '.join(DTYPES)}; given {dtype!r}")
    if source.suffix == ".py" and device_map is not None:
        raise LutcError("a Python file places its own model; leave `device_map` out, or give `device`")
    torch_dtype = DTYPES[dtype] if dtype else torch.float32 if wanted.type == "cpu" and device_map is None else "auto"
    with advised(f"loading {path}"):
        if source.suffix == ".py":
            loaded = _from_python(source, None if torch_dtype == "auto" or dtype is None else torch_dtype)
        else:
            loaded = _from_pretrained(source, torch_dtype, device_map, task)
        if tokenizer is not None:
            loaded = Loaded(loaded.model, loaded.kind, loaded.path, Path(tokenizer))
        if device_map is None and wanted.type != "cpu":
            loaded.model.to(wanted)
    loaded.model.eval()
    return loaded


@contextlib.contextmanager
def advised(doing: str) -> Iterator[None]:
    """Running out of memory becomes one line with advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and "can't allocate memory" not in str(error)
        ):
            raise
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        advice = "take `dtype` bf16, a smaller `batch` or `seqlen`, or `device_map` auto"
        raise LutcError(f"out of {where} while {doing}; {advice}") from error


def _device(name: str) -> torch.device:
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun's: each process its own GPU
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise LutcError(f"no device is called {name!r}; give cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LutcError(
            f"`device` {name}: torch finds no GPU here; take `device` cpu, or install a torch with CUDA and its driver"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LutcError(f"`device` {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def _from_python(source: Path, dtype) -> Loaded:
    model = call(source, "model")
    if not isinstance(model, nn.Module):
        raise LutcError(f"model() of {source} gives a {type(model).__name__}; it must give a torch.nn.Module")
    return Loaded(model if dtype is None else model.to(dtype), kind_of(model), str(source))


def _from_pretrained(source: Path, dtype, device_map, task: str | None) -> Loaded:
    import transformers

    file = gguf.find(source)
    folder = source if file is None else gguf.unpacked(file, dtype)
    if not (folder / "config.json").exists():
        raise LutcError(
            f"{source} is no Hugging Face model folder (no config.json) and holds no GGUF file; give one, or a Python "
            "file"
        )
    arguments = {"local_files_only": True, "dtype": dtype, **_placement(device_map)}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
            name = task or auto_class(config, source)
            if not hasattr(transformers, name):
                raise LutcError(
                    f"transformers has no class {name!r}; give one such as AutoModel or "
                    "AutoModelForSequenceClassification"
                )
            model = getattr(transformers, name).from_pretrained(str(folder), **arguments)
    except LutcError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LutcError(f"{source} cannot be loaded: {first_line(error)}") from error
    return Loaded(model, "causal" if name == "AutoModelForCausalLM" else kind_of(model), str(source), folder)


def _placement(device_map) -> dict:
    """A device map as arguments of from_pretrained."""
    if device_map is None:
        return {}
    kind, _, limits = device_map.partition(":") if isinstance(device_map, str) else (device_map, "", "")
    if "=" not in limits:
        return {"device_map": device_map}
    given = [part.partition("=")[::2] for part in limits.split(",")]
    known = all(
        (place == "cpu" or place.isdecimal()) and re.fullmatch(r"\d+(\.\d+)?(GiB|MiB|GB|MB)", size)
        for place, size in given
    )
    if not known:
        raise LutcError(
            f"`device_map` {device_map}: limits are of GPUs by number and of cpu, as in auto:0=20GiB,cpu=8GiB"
        )
    return {
        "device_map": kind,
        "max_memory": {int(place) if place.isdecimal() else place: size for place, size in given},
    }
