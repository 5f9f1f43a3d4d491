"""report.html in a real browser: Chromium, driven by Playwright, where both are there."""

import re
import shutil

import pytest
import torch

import lutc
from lutc.folder.page import REPORT
from tests.helpers import tiny_models


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    ids = torch.randint(0, 50, (2, 1, 24), generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("page") / "tables"
    lutc.compile_model(tiny_models.llama(), [{"input_ids": i} for i in ids], folder, name="<tiny> & co")
    return folder / REPORT


def test_it_needs_nothing_but_itself(report):
    text = report.read_text()
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text)
    assert "&lt;tiny&gt; &amp; co" in text and "<tiny>" not in text
    assert text.count("<svg") == 13 and "nan" not in text.partition("<script>")[0].lower()


@pytest.mark.slow  # starts a browser
def test_in_a_browser(report):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, errors, asked = browser.new_page(viewport={"width": 1200, "height": 900}), [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        column = "() => [...document.querySelectorAll('#places tbody tr')].map(r => +r.cells[4].dataset.value)"
        before = page.evaluate(column)
        page.click("#places thead th:nth-child(5) button")
        assert page.evaluate(column) == sorted(before, reverse=True) != before
        page.click("#places thead th:nth-child(5) button")
        assert page.evaluate(column) == sorted(before)
        assert page.get_attribute("#places thead th:nth-child(5)", "aria-sort") == "ascending"
        page.set_viewport_size({"width": 375, "height": 800})
        width = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]  # nothing runs over the side of a phone
        page.select_option("#pick", "8 1")
        sizes = page.evaluate(
            "() => [...document.querySelectorAll('#places tbody tr')].map(r => +r.cells[8].dataset.value)"
        )
        assert sizes == sorted(sizes, reverse=True)
        assert errors == [] and asked == [report.as_uri()]
        browser.close()
