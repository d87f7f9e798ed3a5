"""Which learner a server belongs to: a token of its run, as part of the weights' version.

vLLM keeps one string as the version of a server's weights ("default" at first) and puts it on each
response. Ours is OWNER.VERSION, such as 3f2a91c0b7de.12, so that a response proves both. The token
is in the run's folder, so that a run that was killed finds its own servers again; one that ends
well sets them free. A server of another run is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from sapo_vl.errors import SetupError
from sapo_vl.runs.files import write_text

UNOWNED = "default"
"""vLLM's version of a server that no learner has sent anything."""

RELEASED = "released"
"""The version of a server that its learner has set free: the weights are still that learner's."""

TOKEN_FILE = "servers/owner"


def owner_token(run_dir: Path) -> str:
    """Return the run's token; make it where there is none yet."""
    file = run_dir / TOKEN_FILE
    if not file.exists():
        write_text(file, secrets.token_hex(6))
    return file.read_text(encoding="utf-8").strip()


def label(owner: str, version: int | str) -> str:
    """Return the version that a server shows."""
    return f"{owner}.{version}"


def in_order(labels: Sequence[str]) -> bool:
    """Whether all labels are of one owner, each version at least the one before it."""
    parts = [label.rpartition(".") for label in labels]
    if len({owner for owner, _, _ in parts}) > 1:
        return False
    if not all(version.isdecimal() for _, _, version in parts):
        return False
    versions = [int(version) for _, _, version in parts]
    return versions == sorted(versions)


def is_owned(address: str, shown: str, owner: str) -> bool:
    """Whether a server that shows a version is this run's; if not, it is free.

    Raises SetupError when it is another run's.
    """
    if shown in (UNOWNED, RELEASED):
        return False
    if shown.partition(".")[0] != owner:
        raise SetupError(
            f"generator.servers: {address} serves another run (its weights are {shown}): end that "
            "run, or restart the server if the run was killed"
        )
    return True
