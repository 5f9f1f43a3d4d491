"""README and docs hold: every snippet runs, what is shown is what is printed, links and module paths lead somewhere,
lines fit.

A page is run from its top, in a folder of its own that holds small random models under the names that the pages use.
Shell snippets (```console) print what the page shows below the command, `...` stands for any lines; Python snippets
(```python) share their names down the page. A comment above a snippet says otherwise:

    <!-- snippet: slow -->      minutes rather than seconds: `make test-slow`
    <!-- snippet: models -->    needs a real model: `make test-models`
    <!-- snippet: figures -->   what is shown was measured on a real model; here the command has to succeed
    <!-- snippet: simulator --> needs Verilator or Icarus
    <!-- snippet: runs NAME --> needs programs of these names
    <!-- snippet: interpreter --> a program of its own, with Triton's interpreter
    <!-- snippet: needs NAME --> needs a Python package that is not among those of `dev`
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from lutc.cli import main
from tests.helpers.imports import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
LANGUAGES = ("console", "python", "json", "verilog", "systemverilog", "c", "text")
COMMENT = re.compile(r"<!-- snippet: (.+) -->")
WORDS = {"slow", "models", "figures", "simulator", "interpreter", "needs", "runs"}


@dataclass(frozen=True)
class Snippet:
    page: Path
    line: int  # of its first line, from 1
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path) -> list[Snippet]:
    found, words, opened, language, body = [], (), 0, "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = re.match(r" *```(\S*)", line)
        if opened and fence:
            found.append(Snippet(page, opened, language, words, "\n".join(body)))
            opened, words = 0, ()
        elif opened:
            body.append(line)
        elif fence:
            opened, language, body = number + 1, fence[1], []
        elif comment := COMMENT.match(line.strip()):
            words = tuple(comment[1].split())
        elif line.strip():
            words = ()
    return found


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, the lines that it prints) of a ```console snippet; a backslash goes on."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0][:-1] + line.strip(), [])
        else:
            assert found, f"a line before the first command: {line!r}"
            found[-1][1].append(line)
    return found


def test_snippets_say_what_they_are():
    for page in PAGES:
        for snippet in snippets(page):
            assert snippet.language in LANGUAGES, f"{snippet}: a snippet of {snippet.language!r}"
            assert not snippet.words or snippet.words[0] in WORDS, f"{snippet}: {snippet.words}"


@pytest.fixture(scope="module")
def named_models(tmp_path_factory) -> Path:
    pytest.importorskip("transformers")
    from tests.helpers import tiny_models

    root = tmp_path_factory.mktemp("named")
    tiny_models.save(tiny_models.llama(num_hidden_layers=30), root / "SmolLM2-135M")
    tiny_models.save(tiny_models.bert(), root / "all-MiniLM-L6-v2")
    tiny_models.save(tiny_models.bert(), root / "sentence-transformers" / "all-MiniLM-L6-v2")
    for name in ("book.txt", "documents.txt"):
        (root / name).write_text(tiny_models.text())
    (root / "mypackage").mkdir()
    (root / "mypackage" / "activations.py").write_text(
        "import numpy as np\n\n\ndef snake(x):\n    return x + np.sin(x) ** 2\n"
        "\n\ndef wave(x):\n    return x * np.cos(x)\n"
    )
    return root


@pytest.fixture
def scene(named_models, tmp_path, monkeypatch) -> Path:
    shutil.copytree(named_models, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]


def names(root: Path) -> dict:
    """What Python snippets take as given: a model, batches for it, and its training."""
    import torch

    import lutc.nn
    from lutc.models.loading import load
    from lutc.models.texts import batches

    loaded = load(str(root / "SmolLM2-135M"))
    given = batches(loaded, str(root / "book.txt"), seqlen=32, max_tokens=128)

    def train(model):
        model.train()
        for batch in given:
            model(**batch).logits.square().mean().backward()
        model.eval()

    return {"__name__": "snippet", "torch": torch, "lutc": lutc, "batches": given, "train": train} | {
        "model": loaded.model,
        "table": lutc.load("gelu_8")["4"],
        **{name: torch.randn(1, 2, 5, 16) for name in ("query", "key", "value")},
    }


def wanted(snippet: Snippet, mark: str) -> bool:
    mine = next((word for word in snippet.words if word in ("slow", "models")), "")
    return mine in ("", mark)


def run_page(page: Path, root: Path, mark: str = "") -> None:
    given: dict | None = None
    for snippet in snippets(page):
        if not wanted(snippet, mark):
            continue
        if snippet.words[:1] == ("needs",) and importlib.util.find_spec(snippet.words[1]) is None:
            continue
        if snippet.words[:1] == ("runs",) and not all(map(shutil.which, snippet.words[1:])):
            continue
        if "simulator" in snippet.words and not (shutil.which("verilator") or shutil.which("iverilog")):
            continue
        if snippet.language == "console":
            for command, shown in commands(snippet.text):
                printed = run(command, root, str(snippet))
                if shown and "figures" not in snippet.words:
                    assert as_shown(printed, shown), f"{snippet}: {command}\nprints\n{printed}"
        elif snippet.language == "python":
            file = root / f"{page.stem}_{snippet.line}.py"  # a file, for Triton reads a kernel's source
            file.write_text("\n" * (snippet.line - 1) + snippet.text + "\n")
            if "interpreter" in snippet.words:
                run_file(file, str(snippet))
                continue
            given = names(root) if given is None else given
            try:
                exec(compile(file.read_text(), str(file), "exec"), given)
            except Exception as error:
                raise AssertionError(f"{snippet}: {type(error).__name__}: {error}") from error


def as_shown(printed: str, shown: list[str]) -> bool:
    """Whether the lines are those shown; `...` stands for any lines, and numbers of spaces may differ."""
    pattern = r"\n".join(
        r"(?:.*\n?)*?" if line.strip() == "..." else r"\s+".join(map(re.escape, line.split())) for line in shown
    )
    pattern = pattern.replace(r"(?:.*\n?)*?\n", r"(?:.*\n)*?")
    return re.fullmatch(pattern, "\n".join(line.strip() for line in printed.strip().splitlines())) is not None


def run(command: str, root: Path, where: str) -> str:
    words = shlex.split(command, comments=True)
    if words[0] == "lutc":
        return lutc(words[1:], where)
    if words[0] == "make":
        return make(words[1:], root, where)
    assert words[0] == "python", f"{where}: {command!r} is no command that a page may show"
    return run_file(ROOT / words[1], where, *words[2:])


def run_file(file: Path, where: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, file, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{where}:\n{done.stderr[-2000:]}"
    return done.stdout


def lutc(words: list[str], where: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, f"{where}: lutc {' '.join(words)}\n{done.output}\n{done.exception!r}"
    return done.stdout


def make(targets: list[str], root: Path, where: str) -> str:
    """What a target of the Makefile would run; the compiler's lines are run, into a folder of their own."""
    (root / "pretrained").mkdir(exist_ok=True)
    done = subprocess.run(["make", "--dry-run", "-C", ROOT, *targets], capture_output=True, text=True)
    assert done.returncode == 0, f"{where}: make {' '.join(targets)}\n{done.stderr}"
    joined = done.stdout.replace("\\\n", " ").splitlines()
    lines = [
        line.strip().removeprefix(".venv/bin/lutc ") for line in joined if line.strip().startswith(".venv/bin/lutc ")
    ]
    return "".join(lutc(shlex.split(line), where) for line in lines)


def pages(*words: str) -> list:
    found = [page for page in PAGES if any(wanted(s, words[0] if words else "") for s in snippets(page))]
    if words:
        found = [page for page in found if any(words[0] in snippet.words for snippet in snippets(page))]
    return [pytest.param(page, id=page.stem) for page in found]


@pytest.mark.slow  # minutes for all pages together
@pytest.mark.parametrize("page", pages())
def test_a_page_runs(page, scene):
    run_page(page, scene)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages("slow"))
def test_a_page_runs_with_its_slow_snippets(page, scene):
    run_page(page, scene, "slow")


@pytest.mark.models
@pytest.mark.parametrize("page", pages("models"))
def test_a_page_runs_with_its_models(page, scene):
    run_page(page, scene, "models")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lines_fit_and_paths_exist(page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        # a row of a table is one line, and no longer for a reader than its cells
        assert len(line) <= 120 or line.startswith("|"), f"{page.name}:{number} has {len(line)} columns"
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", line):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}:{number}: {target}"
        for path in re.findall(r"`((?:lutc|kernels|tests|examples|benchmarks|pretrained)/[\w./]*)`", line):
            assert (ROOT / path).exists(), f"{page.name}:{number}: {path}"
        for module in re.findall(r"`(lutc(?:\.[a-z_0-9]+)+)`", line):
            assert exists(module), f"{page.name}:{number}: {module}"


def exists(name: str) -> bool:
    """Whether `lutc.a.b` is a module or a name that one defines or exports."""
    import importlib

    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_readme_is_one_screen_and_a_bit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_command_has_a_page():
    text = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in main.commands if f"lutc {name}" not in text] == []


def test_the_reference_names_modules_that_exist():
    for page in ROOT.glob("docs/reference/*.md"):
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M):
            *path, last = name.split(".")
            module, of = ROOT.joinpath(*path, last), ROOT.joinpath(*path).with_suffix(".py")
            if module.is_dir() or module.with_suffix(".py").exists():
                continue
            tree = ast.parse(of.read_text())
            defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
            assert last in defined, f"{page.name}: {name}"


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Parameters" not in done.stderr
    assert "lutc.patch" in (tmp_path / "index.html").read_text() or (tmp_path / "reference/lutc.html").exists()
