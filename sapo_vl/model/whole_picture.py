"""Is a picture's file whole? Its header is read, and its end; only a doubtful one is decoded."""

from __future__ import annotations

from sapo_vl.data.images import Size, header_size, open_image

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_TAIL_BYTES = 256
"""An end mark may be followed by padding of some bytes."""


def whole_size(data: bytes) -> Size:
    """Return the size of a picture in pixels.

    A PNG or JPEG file with its end mark is taken to be whole; any other file is decoded, which
    takes milliseconds. Damage in the middle of a file is found only when it is decoded.

    Raises:
        DataError: the header can't be read, or the file is cut off.
    """
    size = header_size(data)
    if not _has_end(data):
        open_image(data)
    return size


def _has_end(data: bytes) -> bool:
    tail = data[-_TAIL_BYTES:]
    if data.startswith(_PNG):
        return b"IEND" in tail
    return data.startswith(_JPEG) and b"\xff\xd9" in tail
