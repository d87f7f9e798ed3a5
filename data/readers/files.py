"""Find and open data files: what kind a file is, packed or not, and how much of it may be read.

A name tells the kind (`train.jsonl.gz` is JSON lines), of other names the first bytes do. A line
and an unpacked file are bounded, so that a small file can't fill the memory or run for hours.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from sapo_vl.errors import DataError

MAX_LINE_BYTES = 2**26
"""64 MiB. The longest line, which is one record with its images in base64."""

MAX_JSON_BYTES = 2**31
"""The largest JSON file that is not JSON lines: it is loaded whole."""

MAX_RATIO = 200
"""Unpacked bytes for a packed one. Text of records packs to a tenth, repeated text to a
hundredth; a bomb reaches a thousandth."""

RATIO_FROM = 2**26
"""Unpacked bytes from which MAX_RATIO counts; less harms nobody."""

MAX_PROBED_BYTES = 2**30
"""Unpacked bytes that are counted ahead."""

KINDS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
"""Suffix -> kind, in the order of preference for a folder with several kinds."""

PACKED = (".gz", ".bz2", ".xz", ".zst")
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_NOT_RECORDS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of `datasets` that describe a data set."""

_SHARD = re.compile(r"(?P<series>.*-)(?P<number>\d{5})-of-(?P<total>\d{5})")
_UNPACKERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: _Buffered(file),
}
"""First bytes of a packed file -> what opens it."""


def data_suffix(file: Path) -> str:
    """Return the suffix that names the kind of a data file, packing left out; "" for no such."""
    name = file.name.lower()
    for packing in PACKED:
        name = name.removesuffix(packing)
    suffix = Path(name).suffix
    return suffix if suffix in KINDS else ""


def kind_of(file: Path) -> str:
    """Return a value of `KINDS`, by the name, or else by the content.

    Raises:
        DataError: it is neither.
    """
    suffix = data_suffix(file)
    if suffix:
        return KINDS[suffix]
    if file.suffix.lower() in _ARCHIVES:
        raise DataError(f"{file}: an archive; unpack it and give the folder")
    with opened(file) as stream:
        start = stream.read(4096)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return "json"
    raise DataError(f"{file}: unsupported file type; supported: {', '.join(KINDS)}, also packed")


def record_files(source: Path) -> list[Path]:
    """Return a folder's data files, sorted; only the first suffix of `KINDS` that occurs counts.

    Hidden files and folders, and the notes of `datasets`, are skipped. A `source` that is a file is
    returned as it is.

    Raises:
        DataError: the folder has no data files, or a shard is missing from a series.
    """
    if source.is_file():
        return [source]
    candidates = sorted(
        path
        for path in source.rglob("*")
        if data_suffix(path)
        and path.is_file()
        and path.name not in _NOT_RECORDS
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    for suffix in KINDS:
        files = [path for path in candidates if data_suffix(path) == suffix]
        if suffix == ".arrow":
            files = [path for path in files if not path.name.startswith(("cache-", "indices"))]
        if files:
            return require_all_shards(files)
    raise DataError(f"source: {source} contains no data files ({', '.join(KINDS)})")


def require_all_shards(files: list[Path]) -> list[Path]:
    """Return `files` after checking each NAME-00000-of-00003 series for completeness.

    Raises:
        DataError: names the first missing shard.
    """

    def stem(path: Path) -> str:
        return str(path)[: str(path).lower().rindex(data_suffix(path))]

    shards = [m for path in files if (m := _SHARD.fullmatch(stem(path)))]
    by_series = itemgetter("series", "total")
    for (series, total), present in groupby(sorted(shards, key=by_series), by_series):
        missing = set(range(int(total))) - {int(shard["number"]) for shard in present}
        if missing:
            first = f"{series}{min(missing):05d}-of-{total}{files[0].suffix}"
            raise DataError(f"{first}: missing ({len(missing)} of {int(total)} shards are missing)")
    return files


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked; the packing is told by the first bytes.

    Raises:
        DataError: while reading, when it is damaged.
        OSError: it can't be opened.
    """
    with file.open("rb") as start:
        magic = start.read(6)
    opener = next((o for sign, o in _UNPACKERS.items() if magic.startswith(sign)), None)
    with opener(file) if opener else file.open("rb") as stream:
        yield stream


def read_lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file, packed or not, each with its end.

    Raises:
        DataError: a line is over `MAX_LINE_BYTES`, or the file unpacks without an end.
    """
    packed, read = file.stat().st_size, 0
    _refuse_bomb(file, packed, _unpacked_size(file, packed, file.stat().st_mtime_ns))
    with opened(file) as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            read += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{file}:{number}: a line of over {MAX_LINE_BYTES >> 20} MiB; is it one record?"
                )
            _refuse_bomb(file, packed, read)
            yield line


def read_whole(file: Path) -> bytes:
    """Return a file's bytes, unpacked.

    Raises:
        DataError: it is over `MAX_JSON_BYTES`, or unpacks without an end.
    """
    packed, parts, read = file.stat().st_size, [], 0
    with opened(file) as stream:
        while part := stream.read(2**22):
            parts.append(part)
            read += len(part)
            _refuse_bomb(file, packed, read)
            if read > MAX_JSON_BYTES:
                raise DataError(
                    f"{file}: over {MAX_JSON_BYTES >> 30} GiB; save it as JSON lines, a record each"
                )
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _unpacked_size(file: Path, packed: int, changed_ns: int) -> int:
    """Return how many bytes a packed file unpacks to, counted up to where it is a bomb or 1 GiB.

    Looked at ahead, since a bomb may be of many short records, each of which takes its time.
    """
    most, read = min(max(RATIO_FROM, MAX_RATIO * packed), MAX_PROBED_BYTES), 0
    with opened(file) as stream:
        if isinstance(stream, io.BufferedReader):
            return packed
        while read <= most and (part := stream.read(2**20)):
            read += len(part)
    return read


def _refuse_bomb(file: Path, packed: int, read: int) -> None:
    if read > RATIO_FROM and read > MAX_RATIO * packed:
        raise DataError(
            f"{file}: unpacks to over {MAX_RATIO} times its size; unpack it first, if it is right"
        )


class _Buffered:
    """`readline` and `read` of a zstd file over a stream of pyarrow, which has no lines."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa

        self._stream, self._rest = pa.CompressedInputStream(str(file), "zstd"), b""

    def __enter__(self) -> _Buffered:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; b"" at the end."""
        part = self._rest or self._stream.read(size)
        self._rest = part[size:]
        return part[:size]

    def readline(self, size: int) -> bytes:
        """Return up to the next line break, at most `size` bytes; b"" at the end."""
        parts, length = [self._rest], len(self._rest)
        self._rest = b""
        while b"\n" not in parts[-1] and length < size:
            part = self._stream.read(2**18)
            if not part:
                break
            parts.append(part)
            length += len(part)
        text = b"".join(parts)
        end = min(text.find(b"\n") + 1 or len(text), size)
        self._rest = text[end:]
        return text[:end]
