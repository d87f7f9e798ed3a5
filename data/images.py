"""The one way from an encoded image to pixels, used by preparation, training and rollout alike.

Both the sampler and the learner must see identical pixels, so decoding, the background under
transparent parts and the resize are decided here and nowhere else. The size rule is Qwen's
`smart_resize`: rendering passes the one of qwen-vl-utils, which imports torch; preparation, which
must not, uses the copy here. A test holds them equal.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from sapo_vl.errors import ConfigError, DataError

MAX_ASPECT = 200
"""Longer side over shorter side; Qwen's rule refuses more."""

FACTOR = 32
"""Pixels of a visual token's side in Qwen3-VL: patches of 16, merged 2 x 2."""

MAX_DECODED_PIXELS = 2**26
"""8192 x 8192, 200 MB as RGB. A small file that claims more is a decompression bomb."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What is read. Pillow knows more, but some of it runs other programs (EPS) or is no picture."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
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
"""What Pillow's parsers raise on broken files; found by damaging files of every format."""

# Pillow warns of pictures that are over our own limit, and are refused, anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Size(NamedTuple):
    """Pixels, in Pillow's order."""

    width: int
    height: int


def open_image(data: bytes) -> Image.Image:
    """Decode an image file to upright RGB.

    EXIF orientation is applied, transparent parts are laid on white, 16-bit grey keeps its upper
    eight bits, an animation gives its first frame.

    Raises:
        DataError: the bytes are no readable image, or claim over `MAX_DECODED_PIXELS` pixels.
    """
    image = _open(data)
    try:
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
    except _UNREADABLE as error:
        raise DataError(f"image of {len(data)} bytes cannot be decoded: {error}") from error
    return rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb


def header_size(data: bytes) -> Size:
    """Return the size that `open_image` would give, read from the header without decoding.

    Raises:
        DataError: the bytes are no image, or claim over `MAX_DECODED_PIXELS` pixels.
    """
    image = _open(data)
    width, height = image.size
    return Size(height, width) if _orientation(image) in _SWAPS_SIDES else Size(width, height)


def changes(data: bytes) -> list[str]:
    """Name what `open_image` does to a picture beyond decoding it, from its header.

    Raises:
        DataError: as `header_size`.
    """
    image = _open(data)
    try:
        animated = getattr(image, "n_frames", 1) > 1
        transparent = image.has_transparency_data
    except _UNREADABLE as error:
        raise DataError(f"an image file with a broken header: {error}") from error
    found = {
        "transparent, laid on white": transparent,
        "turned upright (EXIF)": _orientation(image) in _TURNS,
        "16-bit grey, cut to 8 bits": image.mode.startswith("I"),
        "palette, spelt out": image.mode == "P" and not transparent,
        "CMYK, turned into RGB": image.mode == "CMYK",
        "an animation, first frame kept": animated,
        f"a side under {FACTOR} pixels, scaled up when rendered": min(image.size) < FACTOR,
    }
    return [name for name, applies in found.items() if applies]


def kind(data: bytes) -> str:
    """Return the format of an image file as Pillow names it ("PNG", "JPEG"), from its header.

    Raises:
        DataError: as `header_size`.
    """
    return _open(data).format or "unknown"


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return Qwen's target (height, width): multiples of `factor`, near the pixel budget.

    Sides are rounded; outside the budget both are scaled by the square root of the ratio and
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
    """Return the size that a picture is scaled to before it is cut into patches.

    The rule exceeds the budget for long thin pictures and for narrow budgets; the longer side then
    shrinks, so that width * height <= max_pixels always (and min_pixels loses where both can't
    hold).

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        factor: side of a visual token in pixels (32 for Qwen3-VL).
        min_pixels: smaller pictures are scaled up.
        max_pixels: larger pictures are scaled down.
        rule: `smart_resize`, or qwen-vl-utils' own function of that name.

    Raises:
        DataError: a side is not positive, or the aspect ratio is over `MAX_ASPECT`.
        ConfigError: `max_pixels` does not hold one square of `factor`.
    """
    if max_pixels < factor * factor:
        raise ConfigError(f"max_pixels: {max_pixels} is less than one {factor}x{factor} square")
    if min(width, height) <= 0:
        raise DataError(f"an image of {width}x{height} pixels has no area")
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise DataError(f"an image of {width}x{height} pixels is longer than {MAX_ASPECT}:1")
    h, w = (max(factor, side) for side in rule(height, width, factor, min_pixels, max_pixels))
    while w * h > max_pixels:
        w, h = (w - factor, h) if w >= h else (w, h - factor)
    return Size(w, h)


def resize(image: Image.Image, size: Size) -> Image.Image:
    """Scale to `size` with the bicubic filter; an image of that size is returned as it is."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def within(data: bytes, max_pixels: int) -> bytes:
    """Return the file, or a PNG of it scaled into the budget when it is over `max_pixels`.

    The scaled picture has the pixels that rendering gives under the same budget, and rendering it
    again changes nothing, because its sides are multiples of `FACTOR`.

    Raises:
        DataError: as `open_image` and `target_size`.
    """
    size = header_size(data)
    if size.width * size.height <= max_pixels:
        return data
    target = target_size(*size, factor=FACTOR, min_pixels=FACTOR**2, max_pixels=max_pixels)
    png = BytesIO()
    resize(open_image(data), target).save(png, "PNG")
    return png.getvalue()


def tokens(images: Iterable[bytes], max_pixels: int = MAX_DECODED_PIXELS) -> int:
    """Return the visual tokens of a record's pictures for Qwen3-VL, from their headers alone.

    Raises:
        DataError: as `header_size` and `target_size`.
    """
    sizes = map(header_size, images)
    targets = (
        target_size(*size, factor=FACTOR, min_pixels=FACTOR**2, max_pixels=max_pixels)
        for size in sizes
    )
    return sum(visual_tokens(size, FACTOR) for size in targets)


def visual_tokens(size: Size, factor: int) -> int:
    """Return how many tokens the language model sees for a picture of `size` (a target size)."""
    assert not any(side % factor for side in size), (size, factor)
    return (size.width // factor) * (size.height // factor)


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{len(data)} bytes that are no image file ({', '.join(FORMATS)})"
        ) from error
    except _UNREADABLE as error:
        raise DataError(f"an image file with a broken header: {error}") from error
    if image.width * image.height > MAX_DECODED_PIXELS:
        raise DataError(
            f"image claims {image.width}x{image.height} pixels, over {MAX_DECODED_PIXELS}"
        )
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8 as the header has it.

    `Image.getexif` is not used: on a PNG it decodes the picture.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION_TAG, 1))
    except _UNREADABLE:
        return 1  # every viewer shows a picture with broken EXIF as it lies


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        grey_HW = np.asarray(image).astype(np.int64)
        rgb = Image.fromarray((grey_HW >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
        if "transparency" in image.info:
            clear_HW = (grey_HW == image.info["transparency"]).astype(np.uint8) * 255
            rgb.paste((255, 255, 255), mask=Image.fromarray(clear_HW))
        return rgb
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
