"""Marks in a text that stand for something else: pictures, videos, sounds, regions.

Every toolkit writes a picture's place in its own way. A mark whose meaning is certain is read as
the picture's place (`place`); a mark of anything else, or a special token of another tokenizer, is
a fault by name (`foreign_mark`), since a model would read it as text.

    <|vision_start|><|image_pad|><|vision_end|>  <|image|>  <Image>  <IMG_CONTEXT>  [IMG]  a picture
    <image 1>  <image_1>  <|image_1|>  <img1>                      a numbered picture, from 1 or 0
    <img>a.png</img>  ![..](a.png)  <img src="a.png">              a picture by the name of its file
    <video>  <audio>  <bbox>  <ref-object>  <|box_start|>          faults
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

from sapo_vl.data.readers.image_refs import file_names
from sapo_vl.errors import DataError
from sapo_vl.schema import IMAGE_MARK

_NAMES = "image|img|picture|pic|photo"
_NAMED = re.compile(
    r"<img>\s*(?P<a>[^<>\n]{1,1000}?)\s*</img>|<image>(?P<b>[^<>\n]{1,500}\.\w{3,4})</image>"
    r"""|<img\b[^<>]{0,200}?\bsrc\s*=\s*(?:"(?P<c>[^"<>]+)"|'(?P<d>[^'<>]+)')[^<>]{0,200}>"""
    r"|!\[[^\[\]\n]{0,500}\]\((?P<e>[^()\s]+)\)"
)
_PLAIN = re.compile(
    r"<\|vision_start\|>(?:(?:<\|image_pad\|>)+|\s{0,3}<image>\s{0,3})<\|vision_end\|>"
    r"|(?:<\|image_pad\|>)+"
    r"|<\|begin_of_image\|>(?:<\|image\|>)+<\|end_of_image\|>"
    r"|<\|(?:image|img|imgpad|image_start|media_pad)\|>|<(?:img|image)>(?:<IMG_CONTEXT>)+</(?:img|image)>"
    r"|\(<image>\./</image>\)|(?:<IMG_CONTEXT>)+|<im_start>(?:<im_patch>)*<im_end>|(?:<im_patch>)+"
    r"|<start_of_image>|(?:<image_soft_token>)+|<ImageHere>|<image></image>|<img></img>"
    r"|<\s{0,3}(?:image|img|picture|images)\s{0,3}/?>|\[(?:IMG|image)\]"
    r"|<(?:image|img)_?(?:placeholder|place_holder|token|pad)>|\{\{?\s{0,3}<?image>?\s{0,3}\}?\}",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    rf"<\|?\s{{0,3}}(?:{_NAMES})[ _:#-]?(\d{{1,3}})\s{{0,3}}\|?>|\[(?:{_NAMES})_?(\d{{1,3}})\]"
    rf"|\{{(?:{_NAMES})_?(\d{{1,3}})\}}",
    re.IGNORECASE,
)
_FOREIGN = re.compile(
    r"<\|[A-Za-z][A-Za-z_]{2}[\w -]{0,40}\|>"
    r"|</?(?:video|audio|speech|sound)s?(?:[ _-]?\d{1,3})?\s*/?>"
    r"|<(?:video|audio|speech|vid|aud)_(?:placeholder|pad|token|soft_token|here|context)>"
    r"|<VIDEO_CONTEXT>|<start_of_audio>|<audio_soft_token>|\[(?:VIDEO|AUDIO)\]|<VideoHere>"
    r"|<(?:bbox|ref-object|ref_object|cot-process|region|mask|seg|obj)(?:_?\d{1,3})?>"
    r"|<loc_?\d{1,4}>|\[SEG\]|<IMG_CONTEXT>|<image_pad>|<im_(?:start|end|patch)>|\[IMG(?:_END|_BREAK)?\]"
    r"|</(?:image|img)>|<(?:image|img)_(?:placeholder|token)>|<image_soft_token>",
    re.IGNORECASE,
)
_MEDIA_COLUMN = re.compile(
    r"(?:video|audio|speech|sound|movie)s?(?:_?(?:path|file|url|name|bytes|clip)s?)?", re.IGNORECASE
)


class Placed(NamedTuple):
    """A text with one mark per picture, and the pictures' references in the order of the marks."""

    text: str
    refs: list[Any]
    has_foreign_marks: bool = False  # a mark of another toolkit was read as a picture's place


def foreign_mark(text: str) -> str | None:
    """Return the first mark in a text that is neither ours nor read as a picture's place."""
    if "<" not in text and "[" not in text:
        return None
    found = _FOREIGN.search(text)
    return found[0] if found else None


def media_column(row: dict[str, Any], is_missing: Any) -> str | None:
    """Return the first column of a row that holds a video or a sound."""
    return next(
        (
            column
            for column, value in row.items()
            if _MEDIA_COLUMN.fullmatch(column)
            and not is_missing(value)
            and not isinstance(value, bool | int | float)
        ),
        None,
    )


def numbers_from_zero(text: str) -> bool:
    """Whether a text has the mark of a picture 0."""
    return any(_number(tag) == 0 for tag in _NUMBERED.finditer(text))


def has_numbers(text: str) -> bool:
    """Whether a text has a numbered mark."""
    return _NUMBERED.search(text) is not None


def normalize(text: str) -> str:
    """Return a text with `IMAGE_MARK` for each unnumbered picture's mark of another toolkit."""
    if "<" not in text and "[" not in text and "{" not in text:
        return text
    return _PLAIN.sub(IMAGE_MARK, text)


def place(text: str, refs: Sequence[Any], *, from_zero: bool = False) -> Placed:
    """Return the text with one mark for each of `refs`, in the order of the marks.

    A named mark takes the picture of that name, or is the reference itself where there are none. Of
    numbered marks the first of a number is the picture's place and a later one is written
    "image 2"; all are where the text has a plain mark for each picture. Pictures without a mark go
    to the front.

    Args:
        text: the problem.
        refs: the record's image references, not loaded.
        from_zero: the numbers of the marks start at 0.

    Raises:
        DataError: a mark has no picture, or marks of two kinds are mixed.
    """
    named, names = _take_names(text)
    plain = normalize(named)
    changed = plain != text
    refs = list(refs)
    if names:
        refs = _by_name(refs, names, plain)
    tags = list(_NUMBERED.finditer(plain))
    count = plain.count(IMAGE_MARK)
    if not tags:
        return Placed(_prepended(plain, len(refs)), refs, changed)
    first = 0 if from_zero else 1
    for tag in tags:
        if not 0 <= _number(tag) - first < len(refs):
            raise DataError(
                f"a mark has no picture: {tag[0]!r} of {len(refs)} pictures, numbered from {first}"
            )
    if count not in (0, len(refs)):
        raise DataError(f"numbered and plain marks are mixed: {tags[0][0]!r} beside {IMAGE_MARK}")
    order: list[int] = []

    def mark(tag: re.Match[str]) -> str:
        index = _number(tag) - first
        if count or index in order:
            return f"image {index + 1}"
        order.append(index)
        return IMAGE_MARK

    marked = _NUMBERED.sub(mark, plain)
    if count:
        return Placed(marked, refs, changed)
    untagged = [index for index in range(len(refs)) if index not in order]
    return Placed(_prepended(marked, len(refs)), [refs[i] for i in (*untagged, *order)], changed)


def _number(tag: re.Match[str]) -> int:
    return int(next(group for group in tag.groups() if group is not None))


def _take_names(text: str) -> tuple[str, list[str]]:
    """Replace the marks that name a file by plain ones; return the names in their order."""
    if "<im" not in text.lower() and "![" not in text:
        return text, []
    names: list[str] = []

    def mark(tag: re.Match[str]) -> str:
        names.append(next(group for group in tag.groupdict().values() if group))
        return IMAGE_MARK

    return _NAMED.sub(mark, text), names


def _by_name(refs: list[Any], names: list[str], text: str) -> list[Any]:
    """Return the references in the order of the marks that name them."""
    if text.count(IMAGE_MARK) != len(names):
        raise DataError(f"named and plain marks are mixed: {names[0]!r:.80} beside {IMAGE_MARK}")
    if not refs:
        return list(names)
    files = [(file_names(ref) or [""])[0] for ref in refs]
    if not any(files) and len(refs) == len(names):
        return refs  # embedded, so that their order is all there is
    by_name = {PureWindowsPath(file).name: ref for file, ref in zip(files, refs, strict=True)}
    wanted = [PureWindowsPath(name).name for name in names]
    if sorted(wanted) != sorted(by_name) or len(by_name) != len(refs):
        raise DataError(
            f"the marks name other pictures than the record has: {', '.join(names)!r:.200}"
        )
    return [by_name[name] for name in wanted]


def _prepended(text: str, count: int) -> str:
    missing = count - text.count(IMAGE_MARK)
    return "\n".join([IMAGE_MARK] * missing + [text.strip()]).strip() if missing > 0 else text
