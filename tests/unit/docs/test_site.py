"""The site: its links, also to files beside docs/, and that it loads nothing from elsewhere."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import docs_hooks
import pytest
from helpers import ROOT

mkdocs = pytest.importorskip("mkdocs", reason="the extra dev has mkdocs-material")

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon)[^>]*\bhref=[\"']?(?:https?:)?//"
)


def settings():
    """Return the site's configuration."""
    from mkdocs.config import load_config

    return load_config(str(ROOT / "mkdocs.yml"))


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", text, re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere_in_the_checkout(page):
    """On GitHub too, where the strict build doesn't look: files, and headings in them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in slugs(file), target


def rendered(text: str, source: str = "page.md") -> str:
    """Return a page's Markdown as the hook changes it."""
    file = SimpleNamespace(abs_src_path=str(DOCS / source), src_uri=source)
    config = SimpleNamespace(docs_dir=str(DOCS))
    return docs_hooks.on_page_markdown(text, page=SimpleNamespace(file=file), config=config)


def test_links_to_files_beside_docs_become_their_paths():
    assert rendered("See [CONTRIBUTING.md](../CONTRIBUTING.md#tests).") == "See `CONTRIBUTING.md`."
    assert (
        rendered("[a recipe](../configs/train/main.yaml)") == "a recipe (`configs/train/main.yaml`)"
    )
    assert rendered("[up](../memory.md)", "lab/page.md") == "[up](../memory.md)"
    assert rendered("[here](memory.md)") == "[here](memory.md)"
    code = "```\n[a](../README.md)\n```\n[README.md](../README.md)"
    assert rendered(code) == "```\n[a](../README.md)\n```\n`README.md`"


def test_a_dead_link_to_a_file_beside_docs_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        rendered("[gone](../gone.md)")
    assert "page.md links to ../gone.md, which doesn't exist" in caplog.text
    assert docs_hooks.log.name.startswith("mkdocs")  # where the strict build counts warnings


def test_a_tables_code_shows_bars_as_on_github():
    html = r"<td>a <code>&lt;\|x\|&gt;</code> \|</td><pre><code>\|</code></pre>"
    shown = r"<td>a <code>&lt;|x|&gt;</code> \|</td><pre><code>\|</code></pre>"
    assert docs_hooks.on_page_content(html) == shown


def test_the_site_loads_nothing_from_elsewhere(tmp_path):
    """Three pages are enough: all have the theme's head."""
    from mkdocs.commands.build import build

    pages = ["index.md", "metrics.md", "first-run.md", "site.css"]
    for name in [*pages, "curves.png"]:
        shutil.copy(DOCS / name, tmp_path)
    config = settings()
    config.docs_dir, config.site_dir = str(tmp_path), str(tmp_path / "site")
    config.nav, config.strict = None, False
    build(config)
    html = {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    assert {"index.html", "metrics.html", "first-run.html"} <= html.keys()
    assert [name for name, text in html.items() if LOADED.search(text)] == []
    assert 'class="mermaid"' not in "".join(html.values())  # the theme would fetch its script
    assert "<code>gate/mean{,_pos,_neg,_text,_image}</code>" in html["metrics.html"]
    assert LOADED.search('<script src="https://example.org/x.js">')
    assert LOADED.search('<link rel="stylesheet" href="//example.org/x.css">')
