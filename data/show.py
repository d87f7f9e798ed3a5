"""A contact sheet: records with their images in one self-contained HTML file.

    write("runs/all", Path("all.html"), limit=60)

Records are spread evenly over the data set. Images are decoded as for training (on white, upright)
and scaled down.
"""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sapo_vl.data import images, store
from sapo_vl.schema import Sample

MAX_SIDE = 320
"""Pixels of an image's longer side."""


def write(source: str | Path, file: Path, limit: int) -> int:
    """Write the contact sheet and return the number of records on it.

    Raises:
        DataError: `source` is not a data set, or an image can't be decoded.
    """
    splits = [store.load(source, split) for split in store.splits(source)]
    total = sum(map(len, splits))
    cards = []
    for samples in splits:
        share = max(1, round(limit * len(samples) / total))
        step = max(1, len(samples) // share)
        cards += [_card(samples[i]) for i in range(0, len(samples), step)[:share]]
    # Same settings as runs/pages.py, which data/ does not import: it knows only the schema.
    environment = Environment(
        loader=PackageLoader("sapo_vl.runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("contact_sheet.jinja").render(
        title=f"{source}: {len(cards)} of {total} records", cards=cards
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return len(cards)


def _card(sample: Sample) -> dict[str, Any]:
    return {
        "sample": sample,
        "images": [_thumbnail(data) for data in sample.images],
        "visual_tokens": images.count_tokens(sample.images),
        "metadata": str(sample.metadata)[:400],
    }


def _thumbnail(data: bytes) -> str:
    image = images.open_image(data)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    png = BytesIO()
    image.save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
