"""An adapter from the learner's folder into a server: by its path, or piece by piece over HTTP.

vLLM reads adapters from folders. A server that sees the learner's gets the path; to one on another
machine the files go in base64 through /collective_rpc, whose worker writes them into its own
/dev/shm (plugin.py). That costs a third more bytes than a transport of raw ones, needs no further
port, and works on CPUs and GPUs alike.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from sapo_vl.errors import RunError
from sapo_vl.generator.servers.routes import BYTES_PER_SECOND, CALL_SECONDS, Control, sees
from sapo_vl.generator.vllm_engine import ADAPTER
from sapo_vl.model import lora

PIECE_BYTES = 16 << 20
"""Bytes of a file that one call carries."""


def load_adapter(server: Control, folder: Path) -> None:
    """Make a server use the adapter in a PEFT folder in place of the one before."""
    settings = folder / lora.SETTINGS
    uploaded = not sees(server, str(settings), settings.read_bytes())
    path = _upload(server, folder) if uploaded else str(folder)
    served = {model["id"] for model in server.get("/v1/models")["data"]}
    if ADAPTER in served:
        _call(server, "sapo_load_adapter", path=path)
    else:
        server.tell("/v1/load_lora_adapter", {"lora_name": ADAPTER, "lora_path": path})
    _call(server, "sapo_keep_upload", folder=path if uploaded else "")


def _upload(server: Control, folder: Path) -> str:
    """Copy a folder to the server's machine; return its path there."""
    name = f"sapo_vl-upload-{secrets.token_hex(8)}"
    place = ""
    for file in (folder / lora.SETTINGS, folder / lora.WEIGHTS):
        content = file.read_bytes()
        for start in range(0, len(content), PIECE_BYTES):
            data = base64.b64encode(content[start : start + PIECE_BYTES]).decode("ascii")
            answer = _call(server, "sapo_write", folder=name, file=file.name, data=data)
            place = answer["folder"]
        if not sees(server, f"{place}/{file.name}", content):
            raise RunError(f"{place}/{file.name} is not what was sent")
    return place


def _call(server: Control, method: str, **arguments: str) -> dict[str, str]:
    """Call a worker's method (plugin.WorkerExtension); return the first worker's answer."""
    size = sum(map(len, arguments.values()))
    answer = server.post(
        "/collective_rpc",
        {"method": method, "kwargs": arguments},
        timeout=CALL_SECONDS + size / BYTES_PER_SECOND,
    )
    result: dict[str, str] = answer["results"][0] or {}
    return result
