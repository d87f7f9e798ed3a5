"""Decode and resize images; shared by preparation, training, rollout and evaluation.

Generator and learner must see identical pixels, so decoding, the background of transparent images
and the resize are defined here only. The size rule is Qwen's `smart_resize`: rendering passes the
one of qwen_vl_utils, which imports torch; preparation, which must not, uses the copy here. A test
holds the two equal.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from sapo_vl.errors import ConfigError, DataError

MAX_ASPECT = 200
"""Limit on longer side / shorter side, from Qwen's rule."""

QWEN3_VL_FACTOR = 32
"""Side of one visual token in pixels: 32 for Qwen3-VL (patch 16, merged 2 x 2), 28 for Qwen2.5-VL
(patch 14). Preparation and filters count visual tokens with the former unless told otherwise."""

MAX_DECODED_PIXELS = 2**26
"""8192 x 8192, 200 MB as RGB. A small file that claims more is a decompression bomb."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Formats to decode. Pillow's others run external programs (EPS) or are no raster images."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)
_UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, OverflowError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""Raised by Pillow's parsers on damaged files; collected by fuzzing every format."""

# These images exceed MAX_DECODED_PIXELS and are refused in `_open` anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Size(NamedTuple):
    """Image size in pixels, in Pillow's order."""

    width: int
    height: int


def open_image(data: bytes) -> Image.Image:
    """Decode an image file to upright RGB.

    EXIF orientation is applied, transparency is composited on white, grey of more than 8 bits is
    scaled by the range it uses, and an animation gives its first frame.

    Raises:
        DataError: the bytes cannot be decoded, or claim over `MAX_DECODED_PIXELS` pixels.
    """
    image = _open(data)
    try:
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
    except _UNREADABLE as error:
        raise DataError(f"image of {len(data)} bytes cannot be decoded: {error}") from error
    return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb


@lru_cache(maxsize=16)
def header_size(data: bytes) -> Size:
    """Return the size of the decoded image, from the header alone.

    The last few pictures' are kept: preparing a record asks for each four times.

    Raises:
        DataError: the bytes are not an image, or claim over `MAX_DECODED_PIXELS` pixels.
    """
    image = _open(data)
    width, height = image.size
    return Size(height, width) if _orientation(image) in _SWAPS_SIDES else Size(width, height)


def decode_changes(data: bytes, factor: int = QWEN3_VL_FACTOR) -> list[str]:
    """Return what decoding and rendering do to an image besides decompressing it, from the header.

    Rendering with `factor` scales up a side that is shorter.

    Raises:
        DataError: as `header_size`.
    """
    image = _open(data)
    try:
        animated = getattr(image, "n_frames", 1) > 1
        transparent = image.has_transparency_data
    except _UNREADABLE as error:
        raise DataError(f"an image file with a broken header: {error}") from error
    changes = {
        "transparent, composited on white": transparent,
        "rotated upright (EXIF)": _orientation(image) in _TRANSPOSE,
        "integer grey, scaled to 8 bits by its range": image.mode.startswith("I"),
        "palette, expanded to RGB": image.mode == "P" and not transparent,
        "CMYK, converted to RGB": image.mode == "CMYK",
        "animation, first frame only": animated,
        f"a side under {factor} pixels, scaled up when rendered": min(image.size) < factor,
    }
    return [change for change, applies in changes.items() if applies]


def is_one_colour(image: Image.Image) -> bool:
    """Whether an RGB image shows nothing: all its pixels are the same."""
    return image.getcolors(1) is not None  # stops at the second colour


def file_format(data: bytes) -> str:
    """Return Pillow's name of an image file's format ("PNG", "JPEG"), from the header.

    Raises:
        DataError: as `header_size`.
    """
    return _open(data).format or "unknown"


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return Qwen's target (height, width): multiples of `factor` near the pixel budget.

    Both sides are rounded; outside the budget they are scaled by the square root of the ratio and
    rounded towards it. A side may come out as 0 (see `target_size`).
    """
    h = max(factor, round(height / factor) * factor)
    w = max(factor, round(width / factor) * factor)
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = math.floor(height / shrink / factor) * factor
        w = math.floor(width / shrink / factor) * factor
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def target_size(
    width: int,
    height: int,
    *,
    factor: int,
    min_pixels: int,
    max_pixels: int,
    rule: Callable[[int, int, int, int, int], tuple[int, int]] = smart_resize,
) -> Size:
    """Return the size an image is resized to before it is cut into patches.

    The rule exceeds the budget for long thin images and for narrow budgets. The longer side is then
    cut, so that width * height <= max_pixels always holds, if need be at the cost of min_pixels.

    Args:
        width: pixels.
        height: pixels.
        factor: side of one visual token in pixels, see `QWEN3_VL_FACTOR`.
        min_pixels: smaller images are scaled up to this area.
        max_pixels: larger images are scaled down to this area.
        rule: `smart_resize`, or the function of that name in qwen_vl_utils.

    Raises:
        DataError: a side is not positive, or the aspect ratio exceeds `MAX_ASPECT`.
        ConfigError: `max_pixels` is less than `factor` squared.
    """
    if max_pixels < factor * factor:
        raise ConfigError(f"max_pixels: {max_pixels} is less than one {factor}x{factor} square")
    if min(width, height) <= 0:
        raise DataError(f"an image of {width}x{height} pixels has no area")
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise DataError(f"an image of {width}x{height} exceeds the aspect ratio {MAX_ASPECT}:1")
    h, w = (max(factor, side) for side in rule(height, width, factor, min_pixels, max_pixels))
    while w * h > max_pixels:
        w, h = (w - factor, h) if w >= h else (w, h - factor)
    return Size(w, h)


def resize(image: Image.Image, size: Size) -> Image.Image:
    """Resize with the bicubic filter; an image that already has `size` is returned unchanged."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def fit_to_budget(
    data: bytes,
    max_pixels: int,
    factor: int = QWEN3_VL_FACTOR,
    decoded: Image.Image | None = None,
) -> bytes:
    """Return the file unchanged, or a PNG scaled down to at most `max_pixels`.

    `decoded` is what `open_image` gives for the file, where the caller has it.

    The PNG has the pixels that a renderer with the same budget and `factor` produces: its sides are
    multiples of `factor`, so that rendering does not resample it. A renderer with another factor
    does, see `QWEN3_VL_FACTOR`.

    Raises:
        DataError: as `open_image` and `target_size`.
    """
    size = header_size(data)
    if size.width * size.height <= max_pixels:
        return data
    target = target_size(*size, factor=factor, min_pixels=factor**2, max_pixels=max_pixels)
    png = BytesIO()
    resize(decoded or open_image(data), target).save(png, "PNG")
    return png.getvalue()


def count_tokens(
    images: Iterable[bytes],
    max_pixels: int = MAX_DECODED_PIXELS,
    factor: int = QWEN3_VL_FACTOR,
) -> int:
    """Return the visual tokens of a record's images under a pixel budget, from their headers.

    Raises:
        DataError: as `header_size` and `target_size`.
    """
    tokens = 0
    for size in map(header_size, images):
        target = target_size(*size, factor=factor, min_pixels=factor**2, max_pixels=max_pixels)
        tokens += visual_tokens(target, factor)
    return tokens


def visual_tokens(size: Size, factor: int) -> int:
    """Return the number of visual tokens of an image of `size`, a result of `target_size`."""
    assert not any(side % factor for side in size), (size, factor)
    return (size.width // factor) * (size.height // factor)


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{_what_it_is(data)} ({len(data)} bytes); supported: {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise DataError(f"image claims over {MAX_DECODED_PIXELS} pixels: {error}") from error
    except _UNREADABLE as error:
        raise DataError(f"an image file with a broken header: {error}") from error
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise DataError(
            f"image claims {image.width}x{image.height} pixels, over {MAX_DECODED_PIXELS}"
        )
    return image


def _what_it_is(data: bytes) -> str:
    """Name what a file is that is no supported image, by its first bytes."""
    if not data.strip(b"\x00"):
        return "an empty file"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the image, fetch it with `git lfs pull`"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "not an image file but an HTML page, download it again"
    if b"<svg" in start:
        return "not an image file but an SVG drawing, convert it"
    named = {b"%pdf": "a PDF", b"\x00\x00\x01\x00": "an ICO icon", b"%!ps": "PostScript",
             b"\xff\x4f\xff\x51": "a JPEG 2000 stream", b"8bps": "a Photoshop file"}  # fmt: skip
    kind = next((name for sign, name in named.items() if start.startswith(sign)), "")
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").upper().strip()
        kind = {"AVIF": "AVIF", "AVIS": "AVIF", "HEIC": "HEIC", "MIF1": "HEIF"}.get(
            brand, "a video"
        )
    return f"not an image file but {kind}, convert it" if kind else "not an image file"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, from the header; 1 if the EXIF data is broken.

    `Image.getexif` is not used because it decodes a PNG.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except _UNREADABLE:
        return 1  # as image viewers do


def _to_8_bits(grey_HW: np.ndarray) -> np.ndarray:
    """Scale integer grey [H, W] to 0..255 by the range it uses.

    Files of 16 or 32 bits hold 8, 10, 12 or 14 bits as often as all of theirs; the white level is
    the smallest of these that no pixel exceeds. Signed values are scaled from their lowest to their
    highest.
    """
    low, high = int(grey_HW.min()), int(grey_HW.max())
    if low < 0:
        return ((grey_HW - low) * 255 // max(high - low, 1)).astype(np.uint8)
    bits = next(bits for bits in (8, 10, 12, 14, 16, 24, 32, 63) if high < 2**bits)
    return (grey_HW >> (bits - 8)).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey_HW = np.asarray(image).astype(np.int64)
        rgb = Image.fromarray(_to_8_bits(grey_HW)).convert("RGB")
        if "transparency" in image.info:
            clear_HW = (grey_HW == image.info["transparency"]).astype(np.uint8) * 255
            rgb.paste((255, 255, 255), mask=Image.fromarray(clear_HW))
        return rgb
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white level")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
