"""Whether a server makes the same patches of a picture as the processor: asked once each.

`POST /v1/chat/completions/render` returns what a server's processor makes of a picture without
sampling anything: vLLM's own MessagePack of tensors, as (type, shape, bytes).
"""

from __future__ import annotations

import base64
from typing import Any

import httpx
import msgspec
import torch

from sapo_vl.errors import DataError
from sapo_vl.generator.servers.client import ServerClient, ServerError
from sapo_vl.generator.servers.wire import SERVED_NAME, data_url
from sapo_vl.schema import Prompt

RENDER = "/v1/chat/completions/render"


async def compare_patches(
    client: ServerClient, session: httpx.AsyncClient, prompt: Prompt, seconds: float
) -> None:
    """Compare a server's patches of a prompt's pictures with the processor's, to the last bit.

    Raises DataError where they differ, ServerError for an answer that can't be read.
    """
    assert prompt.pixel_values is not None
    assert prompt.grid_thw is not None
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in prompt.images
    ]
    body = {"model": SERVED_NAME, "max_tokens": 1, "messages": [{"role": "user", "content": parts}]}
    answer = await client.ask(session, "POST", RENDER, body, seconds)
    try:
        items = [_fields(item) for item in answer["features"]["kwargs_data"]["image"]]
    except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
        raise ServerError(
            client.address, f"its rendered pictures can't be read ({type(error).__name__}: {error})"
        ) from error
    counts = prompt.grid_thw.prod(-1).tolist()
    ours = prompt.pixel_values.split(counts)
    where = f"record {prompt.sample.id}: server {client.address}"
    if len(items) != len(ours):
        raise DataError(f"{where} sees {len(items)} of {len(ours)} pictures")
    for theirs, own in zip(items, ours, strict=True):
        kind, shape, data = theirs["pixel_values"]
        if [*shape] != [*own.shape] or data != _bytes(own.to(getattr(torch, kind))):
            raise DataError(
                f"{where} makes other patches of its pictures: its model folder's processor config "
                "or its options disagree with data.min_pixels and data.max_pixels"
            )


def _fields(item: str) -> dict[str, Any]:
    """Return (type, shape, bytes) of each tensor of an encoded picture."""
    decoded = msgspec.msgpack.decode(
        base64.b64decode(item), ext_hook=lambda code, data: bytes(data)
    )
    return {name: field["data"] for name, field in decoded.items()}


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
