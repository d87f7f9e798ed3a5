"""A full disk is the user's to mend: one clear line, whichever library met it first."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sapo_vl.errors import SetupError

NO_ROOM = 2**20
"""Bytes free below which a write that failed without an error number failed for want of room."""


@contextmanager
def writing(what: str, root: Path) -> Iterator[None]:
    """Raise SetupError when a write below `root` fails for want of room.

    torch.save reports it as a RuntimeError and safetensors as its own, both without a number.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        else:
            full = shutil.disk_usage(root).free < NO_ROOM
        if not full:
            raise
        raise SetupError(
            f"no space left for {what} in {root}: free some, then continue with --resume; "
            "the earlier checkpoints are whole"
        ) from error
