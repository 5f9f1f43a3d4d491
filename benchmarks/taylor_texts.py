"""English text that can be had offline, as lists of documents (paragraphs), for fitting and measuring.

Debian packages (installed, or unpacked anywhere with `dpkg -x`; `root` is their /usr/share): wordnet-base (glosses),
anarchism (essays), dict-foldoc (a dictionary of computing), dict-gcide (Webster's of 1913, with quotations), perl-doc
and debian-handbook (manuals), fortunes (quotations). From the Python installation: docstrings and READMEs of installed
packages, and the language reference (`pydoc_data.topics`). Fitted on: essays, glosses, both dictionaries, manuals,
docstrings. Measured on: documents of these held out, the language reference, fortunes, sentences of READMEs.
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


def fit_documents(root: Path, measured: list[str] = (), seed: int = 0) -> list[str]:
    """At most 9,000 documents of each kind, shuffled; every fourth is cut to one sentence. None shares 8 words in a row
    with `measured`.
    """
    parts = [essays(root), glosses(root), foldoc(root), docstrings(), webster(root), manuals(root)]
    shuffler = random.Random(seed)
    for part in parts:
        shuffler.shuffle(part)
    documents = sorted({document for part in parts for document in part[:9000]})
    shuffler.shuffle(documents)
    documents = [
        _sentence(document, shuffler) if number % 4 == 3 else document for number, document in enumerate(documents)
    ]
    return unlike(documents, measured)


def unlike(documents: list[str], others: list[str], words: int = 8) -> list[str]:
    """The documents that share no run of `words` words with any of `others`."""
    known = set().union(*(_runs(other, words) for other in others)) if others else set()
    return [document for document in documents if known.isdisjoint(_runs(document, words))]


def _runs(document: str, words: int) -> set[int]:
    found = re.findall(r"[a-z0-9]+", document.lower())
    return {hash(tuple(found[start : start + words])) for start in range(len(found) - words + 1)}


def _sentence(document: str, shuffler: random.Random) -> str:
    sentences = [sentence for sentence in re.split(r"(?<=[.!?;])\s+", document) if len(sentence) >= 30]
    return shuffler.choice(sentences) if sentences else document


def essays(root: Path) -> list[str]:
    return _html(sorted((root / "doc/anarchism/html").glob("*.html*")))


def manuals(root: Path) -> list[str]:
    """The Debian handbook and Perl's manual pages."""
    documents = _html(sorted((root / "doc/debian-handbook/html/en-US").glob("*.html")))
    for path in sorted((root / "perl").glob("*/pod/*.pod")):
        parts = re.split(r"\n\s*\n", path.read_text(errors="replace"))
        documents += _long(re.sub(r"[A-Z]<+\s*([^<>]*?)\s*>+", r"\1", part) for part in parts if part[:1] not in " \t=")
    return documents


def _html(paths: list[Path]) -> list[str]:
    documents = []
    for path in paths:
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


def webster(root: Path) -> list[str]:
    """Definitions and quotations; marks of its source, cross references and etymologies are taken out."""
    with gzip.open(root / "dictd/gcide.dict.dz", "rt", errors="replace") as file:
        text = re.sub(r"\[[^\]]*\]|[{}\\]", "", file.read())
    return _long(re.split(r"\n(?=\S)|\n\s*\n\s*(?=\d+\.)", text))


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


def readmes(count: int) -> list[str]:
    """Sentences of the installed packages' READMEs, the text of minilm_cosine.py."""
    from minilm_cosine import sentences

    return sentences(count)


def _long(parts) -> list[str]:
    documents = (re.sub(r"\s+", " ", part).strip() for part in parts)
    return [document for document in documents if len(document) >= LEAST]
