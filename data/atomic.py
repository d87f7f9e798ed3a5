"""Files and folders that appear under their name only when they are complete.

Nothing is deleted that this code did not make: temporary names are drawn, so that a file of the
user's never has one, and what a folder replaces is looked at once more before it goes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sapo_vl.errors import DataError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` for a file or folder; rename it on success.

    Parent folders are created. An exception deletes the temporary file or folder; a killed process
    leaves it, in a hidden folder `.NAME.new.*`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.new.", dir=path.parent))
    try:
        yield holder / path.name
        (holder / path.name).replace(path)
    finally:
        shutil.rmtree(holder)


def replace_folder(
    new: Path, target: Path, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> None:
    """Rename `new` to `target`; an existing `target` is deleted after that, if it is still ours.

    Args:
        new: the complete folder; it is kept when the renaming is refused.
        target: absent or an empty folder, or one that is replaced.
        is_ours: whether a file in the replaced folder may be deleted.
        overwrite: replace a target that has files.

    Raises:
        DataError: `target` holds what is not ours, or has appeared in the meantime.
    """
    try:
        os.rename(new, target)  # refused by the system unless the target is absent or empty
    except OSError:
        if not (overwrite and target.is_dir()):
            raise
    else:
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(retired / target.name)
    foreign = [entry.name for entry in (retired / target.name).iterdir() if not is_ours(entry)]
    if foreign:
        (retired / target.name).rename(target)
        retired.rmdir()
        raise DataError(f"{target} holds other files ({foreign[0]}, ...); choose another folder")
    new.rename(target)
    shutil.rmtree(retired)
