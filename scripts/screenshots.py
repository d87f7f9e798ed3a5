"""Takes the documentation's pictures of report and viewer with headless Chromium.

    python scripts/screenshots.py runs/main                # -> docs/pictures/*.webp

Each page at widths of 1400 and 400 pixels, in the light scheme, as WebP below LARGEST bytes. Needs
playwright and a Chromium on PATH; nothing is fetched from elsewhere.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIZES = ((1400, 1000), (400, 900))
"""Width and height of the window, in pixels."""

LARGEST = 150_000
"""Bytes of a picture: the quality is lowered until it fits."""

VIEW = "step=20&show=mixed&sort=log_ratio"
"""What the viewer shows: a step of the main job while it still learns, what moved most first."""

ADDRESS = re.compile(r"http://\S+")


def main() -> None:
    """Take all pictures of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    arguments = parser.parse_args()
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        sys.exit(f"no Chromium on PATH ({', '.join(NAMES)})")
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = arguments.out / "report.html"
    sapo_vl("report", arguments.run, "--out", report)
    with sync_playwright() as playwright, viewer(arguments.run) as address:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        for width, height in SIZES:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(report.resolve().as_uri())
            shoot(page, arguments.out / f"report-{width}.webp")
            page.get_by_role("heading", name="Examples", exact=True).evaluate(
                "heading => heading.scrollIntoView()"
            )
            shoot(page, arguments.out / f"report-examples-{width}.webp")
            page.goto(f"{address}&{VIEW}")
            page.wait_for_load_state("networkidle")
            offered = page.locator("#heat option:not([disabled])")
            names = [option.get_attribute("value") for option in offered.all()]
            page.locator("#heat").select_option(names[-1])  # entropy; "none" where there is none
            if len(names) > 1:
                page.locator(".tokens .t").first.wait_for()
            page.wait_for_load_state("networkidle")
            shoot(page, arguments.out / f"viewer-{width}.webp")
            page.close()
        browser.close()
    report.unlink()


def sapo_vl(*arguments: str | Path) -> None:
    """Run a command of this checkout; exit where it fails."""
    command = [sys.executable, "-m", "sapo_vl.cli", *map(str, arguments)]
    if subprocess.run(command, check=False, cwd=ROOT).returncode:
        sys.exit(f"failed: {' '.join(command)}")


@contextmanager
def viewer(run: Path) -> Iterator[str]:
    """Serve the rollout viewer; yield its address."""
    command = [sys.executable, "-m", "sapo_vl.cli", "view", str(run.resolve())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None, "a pipe was asked for"
    try:
        for line in process.stdout:
            match = ADDRESS.search(line)
            if match:
                yield match[0]
                return
        sys.exit("the viewer ended without an address")
    finally:
        process.terminate()
        process.wait()


def shoot(page: Any, path: Path) -> None:
    """Save the window as WebP below LARGEST bytes."""
    image = Image.open(BytesIO(page.screenshot()))
    for quality in (85, 70, 55, 40):
        out = BytesIO()
        image.save(out, "WEBP", quality=quality, method=6)
        if out.tell() <= LARGEST:
            break
    path.write_bytes(out.getvalue())
    print(f"{path}: {image.width} x {image.height}, {out.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    main()
