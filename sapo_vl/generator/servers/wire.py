"""Requests and answers of vLLM's token route, `POST /inference/v1/generate`.

A request holds the unexpanded prompt ids and its pictures as BMP files, which are lossless; the
server makes patches of them itself, and expands the ids. The answer says to what, so that a picture
that was lost, added or resized is noticed for each prompt; `check_answer` compares. That the pixels
give the same patches is compared once for each server (pictures.py).

BMP because it is not compressed: a PNG of a photograph of a megapixel takes this side 16 times as
long (0.5 s against 0.03 s on a busy core), and saves less than half of its 4.2 MB. The other form
that the route takes, ready patches, is 8 times the bytes in float32, and needs vLLM's own
serialization and so its import in the learner.

An answer's log-probs are float32 numbers written as JSON, which is exact: ids and log-probs are the
in-process engine's to the last bit on a CPU, with 0, 1, 2 and 4 pictures. Each token's entry also
holds its rank and itself a second time: 150 bytes a token.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from sapo_vl.errors import DataError
from sapo_vl.generator.base import SamplingRequest
from sapo_vl.generator.engine_input import picture_places
from sapo_vl.generator.engine_options import sampling_options
from sapo_vl.generator.servers.client import ServerError
from sapo_vl.schema import Prompt, VersionSpan

if TYPE_CHECKING:
    from PIL.Image import Image

    from sapo_vl.model.assets import ModelAssets

SERVED_NAME = "policy-base"
"""The model's name in requests, whatever its folder is: a learner that has warmed up has another
than its servers."""

FOLDERS_OWN = -1
"""The version of weights that a server read from its model folder."""


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """One sampled response as a server tells it."""

    token_ids: list[int]  # [T]
    logprobs: np.ndarray  # [T] float32, of the sampling policy, nats
    finish_reason: str
    versions: tuple[VersionSpan, ...]
    labels: tuple[str, ...]  # of these versions, as the server calls them


def request_body(
    request: SamplingRequest, assets: ModelAssets, model: str, salt: str = ""
) -> dict[str, Any]:
    """Return the JSON of a request. `model` is SERVED_NAME, or the adapter's.

    With a `salt` the server's prefix cache and encoder cache keep what they hold of this request
    for requests with the same salt alone.
    """
    options = sampling_options(request.params, request.seed, assets)
    options["logit_bias"] = {str(token): bias for token, bias in options["logit_bias"].items()}
    body: dict[str, Any] = {
        "model": model,
        "token_ids": request.prompt.token_ids,
        "sampling_params": options,
        "return_token_ids": True,
    }
    if request.prompt.images:
        body["content_parts"] = [
            {"type": "image_url", "url": data_url(image)} for image in request.prompt.images
        ]
    if salt:
        body["cache_salt"] = salt
        for part in body.get("content_parts", ()):
            part["uuid"] = sha256(f"{salt} {part['url']}".encode()).hexdigest()
    return body


def data_url(image: Image) -> str:
    """Return a picture as a BMP in a data URL."""
    out = BytesIO()
    image.save(out, "BMP")
    return "data:image/bmp;base64," + base64.b64encode(out.getvalue()).decode()


def responses(answer: Any, request: SamplingRequest, address: str) -> list[ServerResponse]:
    """Return the `params.n` responses of an answer, in order.

    Raises ServerError for an answer that lacks something or has too much of it.
    """
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        found = [_response(choice) for choice in choices]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            address, f"its answer is not of vLLM 0.32's form ({type(error).__name__}: {error})"
        ) from error
    if len(found) != request.params.n:
        raise ServerError(address, f"gave {len(found)} responses where {request.params.n} are due")
    for response in found:
        if not 0 < len(response.token_ids) <= request.params.max_new_tokens:
            raise ServerError(address, f"gave a response of {len(response.token_ids)} tokens")
    return found


def check_answer(answer: Any, prompt: Prompt, image_token: int, address: str) -> None:
    """Compare what the server made of a prompt with what the processor did.

    Raises DataError where a picture was lost, added or resized on the way, or the ids differ.
    """
    where = f"record {prompt.sample.id}: server {address}"
    theirs = answer.get("prompt_token_ids")
    if theirs != prompt.expanded_ids:
        count = len(theirs) if isinstance(theirs, list) else "no"
        raise DataError(
            f"{where} expanded the prompt to {count} tokens and the processor to "
            f"{len(prompt.expanded_ids)}: a picture was lost or altered on the way, or the "
            "server's model folder or its options are others than ours"
        )
    places = (answer.get("mm_placeholders") or {}).get("image") or []
    found = [(place["offset"], place["length"]) for place in places]
    expected = picture_places(prompt.expanded_ids, image_token)
    if found != expected:
        raise DataError(f"{where} places pictures at {found} and the processor at {expected}")


def version_of(label: str) -> int:
    """Return the version in a label of ownership.py, -1 for weights that no learner sent."""
    tail = label.rpartition(".")[2]
    return int(tail) if tail.isdecimal() else FOLDERS_OWN


def _response(choice: Any) -> ServerResponse:
    ids = [int(token) for token in choice["token_ids"]]
    entries: Sequence[Any] = choice["logprobs"]["content"]
    if [entry["token_id"] for entry in entries] != ids:
        raise ValueError("not one log-prob for each sampled token")
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"a response ended by {choice['finish_reason']!r}")
    spans = choice["weight_versions"] or ()
    return ServerResponse(
        token_ids=ids,
        logprobs=np.array([entry["logprob"] for entry in entries], dtype=np.float32),
        finish_reason=choice["finish_reason"],
        versions=tuple(
            VersionSpan(version_of(span["version"]), int(span["start"]), int(span["end"]))
            for span in spans
        ),
        labels=tuple(str(span["version"]) for span in spans),
    )
