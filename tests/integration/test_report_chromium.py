"""report.html in a real Chromium: hostile content runs nothing, and no width scrolls sideways."""

from __future__ import annotations

import pytest
from browser import chromium, open_page  # noqa: F401
from run_folders import write_hostile_run

from sapo_vl.pages.report import page

pytestmark = pytest.mark.slow


def test_a_hostile_run_runs_nothing_and_fits_both_widths(open_page, tmp_path):  # noqa: F811
    path = page.write([write_hostile_run(tmp_path / "a")])
    for width in (1400, 400):
        visit = open_page(path.as_uri(), width=width)
        visit.check(path.as_uri())
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        assert visit.page.evaluate("document.scripts.length") == 0
        assert visit.page.locator("svg[role=img][aria-label]").count() == 3
        assert visit.page.locator(".card").count() == 4
        pictures = visit.page.locator("img").all()
        assert pictures
        for shown in pictures:
            assert shown.evaluate("image => image.naturalWidth") > 0
