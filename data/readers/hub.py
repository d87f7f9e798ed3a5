"""Rows of a data set in the hub's form: a folder of its parquet files, or its name on the hub.

    hub.rows("hiyouga/geometry3k", ("train", "validation", "test"))
    hub.rows("downloads/geometry3k", ("train", "validation", "test"))

Pictures stay encoded: each is the bytes of its file, or its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sapo_vl.data.readers import tables
from sapo_vl.errors import DataError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def rows(
    source: str | Path, splits: Sequence[str], config: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `splits` in turn, with "split" and each picture as bytes or path.

    A folder may lack some of the splits, but not all; its files are called SPLIT-*.parquet or lie
    in a folder SPLIT, in `config` and in data/ where it has these.

    Raises:
        DataError: `source` is neither such a folder nor a hub name, or it cannot be loaded.
    """
    folder = Path(source)
    reader = (
        _local(folder, splits, config) if folder.is_dir() else _hub(str(source), splits, config)
    )
    for split, row in reader:
        yield {key: _plain(value, folder) for key, value in row.items()} | {"split": split}


def _local(
    folder: Path, splits: Sequence[str], config: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    places = [folder / config, folder / "data" / config] if config else []
    places = [p for p in (*places, folder / "data", folder) if p.is_dir()]
    found = {split: _files(places, split) for split in splits}
    if not any(found.values()):
        raise DataError(
            f"source: {folder} has neither the original files nor {splits[0]}-*.parquet"
            + (f" of {config}" if config else "")
        )
    for split, parts in found.items():
        for file in parts:
            for row in tables.read(file):
                yield split, row


def _files(places: Sequence[Path], split: str) -> list[Path]:
    for place in places:
        found = [p for p in place.glob("*.parquet") if p.stem.split("-")[0] == split]
        found += (place / split).glob("*.parquet")
        if found:
            return tables.whole(sorted(found))
    return []


def _hub(
    name: str, splits: Sequence[str], config: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"source: {name} is neither a folder nor a hub name like ORGANISATION/NAME")
    import datasets  # over a second, and only needed here

    for split in splits:
        try:
            table = datasets.load_dataset(name, *([config] if config else []), split=split)
        except Exception as error:  # the hub client raises many kinds, and being offline is one
            raise DataError(
                f"source: {name} is no folder here, and the hub did not give it: {error}"
            ) from error
        for batch in table.with_format("arrow").iter(tables.BATCH_ROWS):
            for row in batch.to_pylist():
                yield split, row


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_plain(one, folder) for one in value]
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        if value["bytes"] is not None:
            return value["bytes"]
        return folder / value["path"] if value["path"] else value
    return value
