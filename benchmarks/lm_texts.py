"""Long texts for language models that can be had offline: from the Python installation, from Debian packages, and from
the model itself.

Debian's `anarchism` (essays) and `debian-handbook` may be installed or unpacked anywhere (`dpkg -x`); `root` is their
/usr/share.
"""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import taylor_texts
import torch


def reference() -> str:
    """The Python language reference."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def docstrings(characters: int) -> str:
    """So much of the standard library's docstrings, in the order of its modules."""
    found, length = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
                and (text := ast.get_docstring(node))
                and len(text) > 80
            ):
                found.append(text)
                length += len(text)
        if length > characters:
            break
    return "\n\n".join(found)


def essays(root: Path) -> str:
    """English prose."""
    return "\n\n".join(taylor_texts.essays(root))


def handbook(root: Path) -> str:
    """Debian's handbook and Perl's manual pages."""
    return "\n\n".join(taylor_texts.manuals(root))


@torch.inference_mode()
def drawn(model, begin: torch.Tensor, length: int, batch: int = 32) -> torch.Tensor:
    """Windows that the model itself writes, int64 (n, length): every token but the first, `begin` (n, 1), is drawn from
    its own distribution.
    """
    torch.manual_seed(0)
    more = {
        "max_new_tokens": length - 1,
        "min_new_tokens": None,
        "eos_token_id": [],
        "pad_token_id": 0,
    }  # a text that ends goes on with another
    plain = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "use_cache": True}
    parts = [model.generate(part, attention_mask=torch.ones_like(part), **more, **plain) for part in begin.split(batch)]
    return torch.cat(parts)
