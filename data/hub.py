"""Rows of a data set on the Hugging Face hub, pictures undecoded; shared by the sources."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sapo_vl.errors import DataError

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def rows(name: str, splits: Sequence[str], image: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of `splits` in turn, with "split" and the file bytes of column `image`.

    Raises:
        DataError: `name` is no hub name (ORGANISATION/NAME), or it cannot be loaded.
    """
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"source: {name} is neither a folder nor a hub name like ORGANISATION/NAME")
    import datasets  # over a second, and only needed here

    for split in splits:
        try:
            table = datasets.load_dataset(name, split=split)
        except Exception as error:  # the hub client raises many kinds, and being offline is one
            raise DataError(
                f"source: {name} is no folder here, and the hub did not give it: {error}"
            ) from error
        for row in table.cast_column(image, datasets.Image(decode=False)):
            yield row | {"split": split, image: row[image]["bytes"]}
