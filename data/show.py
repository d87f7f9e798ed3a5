"""A contact sheet: records with their pictures in one HTML file that needs nothing else.

    write("runs/all", Path("all.html"), limit=60)

Records are taken evenly over the whole data set. Pictures are shown as training decodes them (on
white, upright), scaled down.
"""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from sapo_vl.data import images, store
from sapo_vl.schema import Sample

SIDE = 320
"""Pixels of a picture's longer side."""

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; background: #f4f4f4; color: #222 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem }
article { background: #fff; padding: .8rem; border: 1px solid #ddd }
img { max-width: 100%; border: 1px solid #eee } pre { white-space: pre-wrap; margin: .5rem 0 }
.meta { color: #777; font-size: 12px; overflow-wrap: anywhere } .gold { font-weight: 600 }
"""


def write(source: str | Path, file: Path, limit: int) -> int:
    """Write the sheet and return how many records are on it.

    Raises:
        DataError: `source` is no data set, or a picture cannot be read.
    """
    sets = [store.load(source, split) for split in store.splits(source)]
    total = sum(map(len, sets))
    cards = []
    for samples in sets:
        share = max(1, round(limit * len(samples) / total))
        step = max(1, len(samples) // share)
        cards += [_card(samples[i]) for i in range(0, len(samples), step)[:share]]
    title = escape(f"{source}: {len(cards)} of {total} records")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1><main>{''.join(cards)}</main></html>\n"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    return len(cards)


def _card(sample: Sample) -> str:
    facts = f"{sample.id} | {sample.dataset} | {sample.task} | {sample.split}"
    gold = f"{sample.answer} ({sample.answer_type})" + (f" {sample.unit}" if sample.unit else "")
    tokens = f"{images.count_tokens(sample.images)} visual tokens"
    return (
        f"<article><div class=meta>{escape(facts)}</div>{''.join(map(_picture, sample.images))}"
        f"<pre>{escape(sample.problem)}</pre><div class=gold>{escape(gold)}</div>"
        f"<div class=meta>{escape(tokens)} | {escape(str(sample.metadata)[:400])}</div></article>"
    )


def _picture(data: bytes) -> str:
    image = images.open_image(data)
    image.thumbnail((SIDE, SIDE))
    png = BytesIO()
    image.save(png, "PNG")
    code = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{code}">'
