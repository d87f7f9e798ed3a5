"""Pixels and sizes, against numbers worked out by hand."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sapo_vl.data.images import (
    FORMATS,
    Size,
    count_tokens,
    decode_changes,
    fit_to_budget,
    header_size,
    is_one_colour,
    open_image,
    resize,
    target_size,
    visual_tokens,
)
from sapo_vl.errors import ConfigError, DataError

WHITE = (255, 255, 255)


def encode(image, kind="PNG", **options):
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data):
    return [tuple(map(int, pixel)) for pixel in np.asarray(open_image(data)).reshape(-1, 3)]


def turned(image, orientation, kind="PNG"):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, kind, exif=exif.tobytes())


def png_claiming(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    plain = encode(Image.new("RGB", (1, 1)))
    return plain[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain[33:]


@pytest.mark.parametrize(
    ("mode", "stored", "seen"),
    [
        ("RGBA", [(0, 0, 0, 255), (0, 0, 0, 128), (9, 9, 9, 0)], [(0,) * 3, (127,) * 3, WHITE]),
        ("LA", [(0, 255), (0, 128), (50, 0)], [(0,) * 3, (127,) * 3, WHITE]),
        ("L", [0, 77, 255], [(0,) * 3, (77,) * 3, WHITE]),
        ("1", [0, 1, 0], [(0,) * 3, WHITE, (0,) * 3]),
        ("I;16", [0x1234, 0xFFFF, 0x00FF], [(0x12,) * 3, WHITE, (0,) * 3]),
    ],
)
def test_every_mode_becomes_rgb_on_white(mode, stored, seen):
    image = Image.new(mode, (3, 1))
    for x, value in enumerate(stored):
        image.putpixel((x, 0), value)
    assert pixels(encode(image)) == seen


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ([0, 100, 255], [0, 100, 255]),  # 8 bits in 16 stay as they are
        ([0, 512, 1023], [0, 128, 255]),  # 10 bits: a quarter
        ([0, 2048, 4095], [0, 128, 255]),  # 12 bits: a sixteenth
        ([0, 0x2000, 0x3FFF], [0, 128, 255]),  # 14 bits
        ([0, 0x4000, 0x8000], [0, 64, 128]),  # 16 bits, none of them white
    ],
)
def test_grey_of_more_bits_is_scaled_by_the_bits_it_uses(stored, seen):
    image = Image.new("I;16", (3, 1))
    for x, value in enumerate(stored):
        image.putpixel((x, 0), value)
    assert [r for r, _, _ in pixels(encode(image))] == seen


def test_32_bit_grey_with_and_without_a_sign():
    def tiff(*values):
        return encode(Image.fromarray(np.array([values], np.int32)), "TIFF")

    assert [r for r, _, _ in pixels(tiff(0, 200, 255))] == [0, 200, 255]
    assert [r for r, _, _ in pixels(tiff(-1000, 0, 1000))] == [0, 127, 255]
    with pytest.raises(DataError, match="floating-point"):
        open_image(encode(Image.new("F", (4, 4)), "TIFF"))


def test_an_image_that_shows_nothing():
    assert is_one_colour(Image.new("RGB", (9, 9), (1, 2, 3)))
    strokes = Image.new("LA", (9, 9), (255, 0))
    strokes.putpixel((4, 4), (255, 255))  # white on a clear ground
    assert is_one_colour(open_image(encode(strokes)))
    strokes.putpixel((4, 4), (0, 255))
    assert not is_one_colour(open_image(encode(strokes)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "HTML page"),
        (b'<?xml version="1.0"?><svg xmlns="x"></svg>', "SVG"),
        (b"\x00\x00\x01\x00\x01\x00", "ICO"),
        (b"\x00\x00\x00 ftypavif....", "AVIF"),
        (b"\x00\x00\x00 ftypheic....", "HEIC"),
        (b"\x00\x00\x00 ftypisom....", "a video"),
        (b"%PDF-1.7", "PDF"),
        (b"", "an empty file"),
        (b"\x00" * 99, "an empty file"),
    ],
)
def test_other_files_are_named(data, words):
    with pytest.raises(DataError, match="supported: PNG") as raised:
        header_size(data)
    assert words in str(raised.value)


def test_palette_colours_and_its_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(encode(image)) == [(10, 20, 30), (200, 100, 50)]
    assert pixels(encode(image, transparency=1)) == [(10, 20, 30), WHITE]
    assert pixels(encode(image, "GIF", transparency=1))[1] == WHITE


def test_transparent_value_of_a_16_bit_grey_png():
    image = Image.new("I;16", (2, 1))
    image.putpixel((0, 0), 0x0203)
    data = encode(image)
    clear = b"tRNS" + struct.pack(">H", 0x0203)
    chunk = struct.pack(">I", 2) + clear + struct.pack(">I", zlib.crc32(clear))
    assert pixels(data[:33] + chunk + data[33:]) == [WHITE, (0, 0, 0)]


def test_transparent_colour_of_an_rgb_png():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    assert pixels(encode(image, transparency=(1, 2, 3))) == [WHITE, (4, 5, 6)]


def test_exif_turns_the_picture_and_the_header_size_agrees():
    image = Image.new("RGB", (2, 1), (255, 0, 0))
    image.putpixel((1, 0), (0, 0, 255))
    red, blue = (255, 0, 0), (0, 0, 255)
    assert pixels(turned(image, 1)) == [red, blue]
    assert pixels(turned(image, 3)) == [blue, red]
    assert header_size(turned(image, 3)) == (2, 1)
    upright = open_image(turned(image, 6))  # a quarter turn clockwise: left comes to the top
    assert upright.size == header_size(turned(image, 6)) == (1, 2)
    assert pixels(turned(image, 6)) == [red, blue]
    assert pixels(turned(image, 8)) == [blue, red]


@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["PNG", "JPEG"]))
def test_header_size_is_the_decoded_size(orientation, width, height, kind):
    data = turned(Image.new("RGB", (width, height)), orientation, kind)
    assert header_size(data) == open_image(data).size


def test_broken_exif_leaves_the_picture_as_it_lies():
    data = encode(Image.new("RGB", (3, 2)), exif=b"Exif\x00\x00 no such thing")
    assert open_image(data).size == header_size(data) == (3, 2)


def test_changes_are_named():
    def found(mode, size=(32, 40)):
        return decode_changes(encode(Image.new(mode, size)))

    assert found("RGB") == []
    assert found("RGBA") == ["transparent, composited on white"]
    assert decode_changes(turned(Image.new("RGB", (32, 40)), 6)) == ["rotated upright (EXIF)"]
    assert found("I;16") == ["integer grey, scaled to 8 bits by its range"]
    assert found("P") == ["palette, expanded to RGB"]
    assert decode_changes(encode(Image.new("CMYK", (32, 40)), "JPEG")) == ["CMYK, converted to RGB"]
    assert found("RGB", (31, 400)) == ["a side under 32 pixels, scaled up when rendered"]
    two = encode(
        Image.new("L", (32, 32)), "GIF", save_all=True, append_images=[Image.new("L", (32, 32), 9)]
    )
    assert "animation, first frame only" in decode_changes(two)


def test_scaling_into_a_budget_is_what_rendering_gives():
    noise = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise))
    assert fit_to_budget(data, 150_000) is data
    small = fit_to_budget(data, 64 * 1024)
    # sqrt(150000 / 65536) = 1.513: 500 -> 330.5 -> 320, 300 -> 198.3 -> 192
    assert header_size(small) == (320, 192)
    rendered = resize(open_image(data), Size(320, 192))
    assert np.array_equal(np.asarray(open_image(small)), np.asarray(rendered))
    assert fit_to_budget(small, 64 * 1024) is small
    assert count_tokens([data], 64 * 1024) == count_tokens([small]) == 60
    assert count_tokens([data]) == 16 * 9
    assert count_tokens([encode(Image.new("L", (5, 5))), encode(Image.new("L", (7, 28)))]) == 1 + 1


@pytest.mark.parametrize("data", [b"", b"no image", encode(Image.new("RGB", (1, 1)))[:20]])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(DataError):
        open_image(data)
    with pytest.raises(DataError):
        header_size(data)


def test_a_truncated_picture_is_refused_when_decoded():
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    assert header_size(data[:-500]) == (40, 40)
    with pytest.raises(DataError, match="cannot be decoded"):
        open_image(data[:-500])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"JPEG2000"}))
def test_damaged_pictures_are_read_or_refused(kind):
    """Bytes are changed anywhere, most often in the header; nothing but a DataError is raised."""
    rng = np.random.default_rng(0)
    whole = encode(Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)), kind)
    for _ in range(150):
        data = bytearray(whole[: rng.integers(1, len(whole)) if rng.random() < 0.3 else None])
        reach = len(data) if rng.random() < 0.3 else min(len(data), 200)
        for place in rng.integers(0, reach, 3):
            data[place] = rng.integers(256)
        for read in (header_size, decode_changes, open_image):
            try:
                read(bytes(data))
            except DataError:
                continue


def test_a_file_that_pillow_runs_a_program_for_is_refused():
    with pytest.raises(DataError, match="PNG, JPEG"):
        open_image(encode(Image.new("RGB", (4, 4)), "EPS"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 10_000, 50_000])
def test_decompression_bombs_are_refused_by_their_header(side):
    with pytest.raises(DataError, match=r"over 67108864|decompression bomb"):
        header_size(png_claiming(side, side))


@pytest.mark.parametrize(
    ("given_size", "budget", "wanted"),
    [
        ((1000, 700), (4096, 2**24), (992, 704)),  # 31.25 -> 31 and 21.875 -> 22 squares
        ((1743, 205), (4096, 2**24), (1728, 192)),  # 54.47 -> 54 and 6.41 -> 6
        ((48, 80), (1, 2**24), (64, 64)),  # halves go to the even multiple: 1.5 -> 2, 2.5 -> 2
        ((5, 5), (1, 2**24), (32, 32)),
        ((7, 28), (1, 2**24), (32, 32)),
        ((5, 5), (4096, 2**24), (64, 64)),  # times sqrt(4096 / 25) = 12.8
        ((7, 28), (4096, 2**24), (32, 128)),  # times sqrt(4096 / 196) = 4.571
        ((40, 30), (4096, 2**24), (96, 64)),  # times 1.8475: 73.9 and 55.4, up to squares
        ((100, 100), (1, 4096), (64, 64)),
        ((300, 100), (1, 16384), (192, 64)),  # by sqrt(30000 / 16384) = 1.353: 221.7 and 73.9
        ((6400, 32), (1, 4096), (128, 32)),  # Qwen's own rule gives 896x32, seven times the budget
        ((40, 50), (4096, 4096), (64, 64)),  # Qwen's own gives 64x96, over the maximum
    ],
)
def test_target_size_by_hand(given_size, budget, wanted):
    size = target_size(*given_size, factor=32, min_pixels=budget[0], max_pixels=budget[1])
    assert size == wanted


def test_target_size_refuses_what_has_no_sensible_size():
    with pytest.raises(DataError, match="6433x32"):
        target_size(6433, 32, factor=32, min_pixels=1, max_pixels=2**20)
    with pytest.raises(DataError, match="no area"):
        target_size(0, 32, factor=32, min_pixels=1, max_pixels=2**20)
    with pytest.raises(ConfigError, match="max_pixels: 1000"):
        target_size(64, 64, factor=32, min_pixels=1, max_pixels=1000)


SIDES = st.integers(1, 4000)


@given(
    SIDES, SIDES, st.sampled_from([16, 28, 32]), st.integers(1, 2**14), st.integers(2**14, 2**23)
)
def test_target_size_invariants(width, height, factor, least, most):
    if max(width, height) > 200 * min(width, height):
        return
    size = target_size(width, height, factor=factor, min_pixels=least, max_pixels=most)
    assert size.width % factor == 0
    assert size.height % factor == 0
    assert min(size) >= factor
    assert size.width * size.height <= most
    assert visual_tokens(size, factor) * factor**2 == size.width * size.height
    again = target_size(*size, factor=factor, min_pixels=1, max_pixels=most)
    assert again == size
    flipped = target_size(height, width, factor=factor, min_pixels=least, max_pixels=most)
    assert visual_tokens(flipped, factor) == visual_tokens(size, factor)


@pytest.mark.parametrize("factor", [28, 32])
def test_target_size_is_qwens_wherever_theirs_keeps_the_budget(factor):
    from qwen_vl_utils.vision_process import smart_resize  # imports torch

    rng = np.random.default_rng(0)
    least, most, compared = 4 * factor**2, 256 * factor**2, 0
    for width, height in rng.integers(8, 1500, (600, 2)).tolist():
        theirs = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
        if theirs[0] * theirs[1] <= most:
            ours = target_size(width, height, factor=factor, min_pixels=least, max_pixels=most)
            assert (ours.height, ours.width) == theirs
            compared += 1
    assert compared > 570


def test_another_factor_gives_other_sides_and_token_counts():
    data = encode(Image.new("RGB", (500, 300)))
    # 500 x 300 in 28-pixel squares: 17.86 -> 18 and 10.71 -> 11; in 32-pixel ones 16 and 9
    assert count_tokens([data], factor=28) == 18 * 11
    # sqrt(150000 / 65536) = 1.513: 500 -> 330.5 = 11.8 squares, 300 -> 198.3 = 7.08
    small = fit_to_budget(data, 64 * 1024, factor=28)
    assert header_size(small) == (11 * 28, 7 * 28)
    assert decode_changes(encode(Image.new("RGB", (30, 60))), 28) == []


def test_resize_and_tokens():
    image = Image.new("RGB", (64, 32), (1, 2, 3))
    assert resize(image, Size(64, 32)) is image
    larger = resize(image, Size(96, 64))
    assert larger.size == (96, 64)
    assert (np.asarray(larger) == (1, 2, 3)).all()
    assert visual_tokens(Size(96, 64), 32) == 6
    assert visual_tokens(Size(64, 64), 16) == 16
    with pytest.raises(AssertionError, match="65"):
        visual_tokens(Size(65, 64), 32)
