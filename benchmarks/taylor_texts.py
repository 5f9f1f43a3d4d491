"""English text that can be had offline, as lists of documents (paragraphs), for fitting and measuring.

Debian packages (installed, or unpacked anywhere with `dpkg -x`; `root` is their /usr/share): wordnet-base (glosses), anarchism (essays),
dict-foldoc (a dictionary of computing), fortunes (quotations). From the Python installation: docstrings of installed packages, and the
language reference (`pydoc_data.topics`).
"""

from __future__ import annotations

import ast
import gzip
import html
import random
import re
import sysconfig
from pathlib import Path

LEAST = 120


def fit_documents(root: Path, seed: int = 0) -> list[str]:
    """Essays, glosses, FOLDOC and docstrings, shuffled; about one in four from each."""
    parts = [essays(root), glosses(root), foldoc(root), docstrings()]
    shuffler = random.Random(seed)
    for part in parts:
        shuffler.shuffle(part)
    documents = [document for part in parts for document in part[:9000]]
    shuffler.shuffle(documents)
    return documents


def essays(root: Path) -> list[str]:
    documents = []
    for path in sorted((root / "doc/anarchism/html").glob("*.html*")):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", errors="replace") as file:
            text = re.sub(r"(?s)<(script|style).*?</\1>", " ", file.read())
        documents += _long(html.unescape(re.sub(r"<[^>]+>", " ", part)) for part in re.split(r"(?i)</p>|<p[ >]", text))
    return documents


def glosses(root: Path) -> list[str]:
    """Definitions and example sentences; short, so four make a document."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        lines = (root / f"wordnet/data.{part}").read_text(errors="replace").splitlines()
        found += [line.split("|", 1)[1].strip() for line in lines if "|" in line and not line.startswith("  ")]
    random.Random(0).shuffle(found)
    return [". ".join(found[start : start + 4]) for start in range(0, 40_000, 4)]


def foldoc(root: Path) -> list[str]:
    with gzip.open(root / "dictd/foldoc.dict.dz", "rt", errors="replace") as file:
        return _long(re.split(r"\n\n+", file.read()))


def fortunes(root: Path) -> list[str]:
    files = sorted(path for path in (root / "games/fortunes").iterdir() if path.is_file() and not path.suffix)
    return _long(part for path in files for part in path.read_text(errors="replace").split("\n%\n"))


def docstrings() -> list[str]:
    documents = []
    for path in sorted(Path(sysconfig.get_path("purelib")).glob("*/**/*.py")):
        if path.parts[-2] == "tests" or len(documents) > 30_000:
            continue
        try:
            tree = ast.parse(path.read_text(errors="replace"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                documents += _long(re.split(r"\n\s*\n", ast.get_docstring(node) or ""))
    return sorted(set(documents))


def reference() -> list[str]:
    """The Python language reference."""
    from pydoc_data import topics

    return _long(part for text in topics.topics.values() for part in text.split("\n\n"))


def _long(parts) -> list[str]:
    documents = (re.sub(r"\s+", " ", part).strip() for part in parts)
    return [document for document in documents if len(document) >= LEAST]
