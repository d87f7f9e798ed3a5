"""A sample's pictures as parts of a chat message, for a judge that can see them.

    parts = image_parts(sample.images)  # [{"type": "image_url", "image_url": {"url": ..}}]

A PNG or JPEG file that any server decodes alike goes as it is. Everything else is decoded, put on
white, scaled down to MAX_PIXELS and sent as a PNG. Files were checked when the data was prepared;
what can't be decoded here is a NoUsableReplyError, as a judge's own faults are.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

from sapo_vl.rewards.verifiers.endpoint import NoUsableReplyError

MAX_PIXELS = 1_048_576
"""Of a picture, as `data.max_pixels` has by default: a thousand visual tokens of Qwen3-VL."""

MAX_DECODED_PIXELS = 2**26
"""A file that claims more is not decoded."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
_SENT = {"PNG": "image/png", "JPEG": "image/jpeg"}
_ORIENTATION_TAG = 0x0112


def image_parts(images: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return an OpenAI-compatible part per picture. Raises NoUsableReplyError."""
    return [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in images]


@lru_cache(maxsize=32)
def data_uri(data: bytes) -> str:
    """Return a picture's `data:` address. Raises NoUsableReplyError for one that can't be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            pixels, kind = image.width * image.height, _SENT.get(image.format or "")
            if pixels > MAX_DECODED_PIXELS:
                raise NoUsableReplyError("a picture has too many pixels")
            upright = image.getexif().get(_ORIENTATION_TAG, 1) == 1
            if kind and upright and image.mode in ("RGB", "L") and pixels <= MAX_PIXELS:
                image.load()  # a file that is cut off
                return _uri(kind, data)
            shown = _on_white(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise NoUsableReplyError("a picture can't be decoded") from error
    if pixels > MAX_PIXELS:
        scale = (MAX_PIXELS / pixels) ** 0.5
        size = (max(1, int(shown.width * scale)), max(1, int(shown.height * scale)))
        shown = shown.resize(size, Image.Resampling.BICUBIC)
    out = BytesIO()
    shown.save(out, "PNG")
    return _uri("image/png", out.getvalue())


def _on_white(image: Any) -> Any:
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
