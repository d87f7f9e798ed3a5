"""Pictures of problems. A browser gets what was decoded here: upright, on white, as models do.

No byte of a data set's file reaches the browser: a file that is no picture gives a reason instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

from sapo_vl.data.images import open_image
from sapo_vl.errors import DataError, printable

PAGE_SIDE = 1024
"""Pixels of a picture's longer side on a server's pages."""

FILE_SIDE = 448
"""The same in a single file, which holds all pictures."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture for the browser, or the reason why there is none."""

    data: bytes = b""  # an image file
    kind: str = "png"  # its type: "png" or "jpeg"
    width: int = 0
    height: int = 0
    fault: str = ""


@lru_cache(64)
def picture(data: bytes, side: int) -> Picture:
    """Decode an image file and scale it down to `side` pixels; JPEG where that halves a PNG."""
    try:
        image = open_image(data)
    except DataError as error:
        return Picture(fault=printable(error))
    width, height = image.size
    image.thumbnail((side, side))
    best = b""
    for form, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 88})):
        file = BytesIO()
        image.save(file, form, **options)
        if not best or len(file.getvalue()) < len(best) // 2:
            best, kind = file.getvalue(), form.lower()
    return Picture(best, kind, width, height)
