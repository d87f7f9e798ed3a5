"""Read a Hugging Face data set: a local folder of its parquet files, or its name on the hub.

    hub.rows("hiyouga/geometry3k", ("train", "validation", "test"))
    hub.rows("downloads/geometry3k", ("train", "validation", "test"))

Images are not decoded: a cell holds the encoded bytes or the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.data.readers.files import require_all_shards
from sapo_vl.data.readers.image_refs import SourceFile
from sapo_vl.data.readers.tables import BATCH_ROWS, Row, read_parquet
from sapo_vl.errors import DataError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def rows(source: str | Path, splits: Sequence[str], config: str | None = None) -> Iterator[Row]:
    """Yield the rows of `splits` in turn, each with its "split" and its images as bytes or path.

    A local folder may lack some of the splits, but not all. Its files are named SPLIT-*.parquet or
    lie in a folder SPLIT, below `config` and data/ where these exist.

    Raises:
        DataError: `source` is neither such a folder nor a hub name, or it cannot be loaded.
    """
    folder = Path(source)
    reader = (
        _local(folder, splits, config) if folder.is_dir() else _hub(str(source), splits, config)
    )
    for split, row in reader:
        yield {key: _unwrap(value, folder) for key, value in row.items()} | {"split": split}


def _local(folder: Path, splits: Sequence[str], config: str | None) -> Iterator[tuple[str, Row]]:
    roots = [folder / config, folder / "data" / config] if config else []
    roots = [root for root in (*roots, folder / "data", folder) if root.is_dir()]
    files = {split: _split_files(roots, split) for split in splits}
    if not any(files.values()):
        raise DataError(
            f"source: {folder} has neither the original files nor {splits[0]}-*.parquet"
            + (f" of {config}" if config else "")
        )
    for split, shards in files.items():
        for file in shards:
            for row in read_parquet(file):
                yield split, row


def _split_files(roots: Sequence[Path], split: str) -> list[Path]:
    for root in roots:
        files = [p for p in root.glob("*.parquet") if p.stem.split("-")[0] == split]
        files += (root / split).glob("*.parquet")
        if files:
            return require_all_shards(sorted(files))
    return []


def _hub(name: str, splits: Sequence[str], config: str | None) -> Iterator[tuple[str, Row]]:
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"source: {name} is neither a folder nor a hub name like ORGANISATION/NAME")
    import datasets  # takes over a second to import

    for split in splits:
        try:
            table = datasets.load_dataset(name, *([config] if config else []), split=split)
        except Exception as error:  # the hub client raises many types, also when offline
            raise DataError(
                f"source: {name} is not a local folder, and loading it from the hub failed: {error}"
            ) from error
        for batch in table.with_format("arrow").iter(BATCH_ROWS):
            for row in batch.to_pylist():
                yield split, row


def _unwrap(value: Any, folder: Path) -> Any:
    """Replace each image struct {bytes, path} by its bytes, or else by its path in `folder`."""
    if isinstance(value, list):
        return [_unwrap(item, folder) for item in value]
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        if value["bytes"] is not None:
            return value["bytes"]
        return SourceFile(folder, value["path"]) if value["path"] else value
    return value
