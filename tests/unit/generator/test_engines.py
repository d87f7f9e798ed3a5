"""What both engines share: settings from SamplingParams alone, and a heartbeat per request."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from helpers import make_sample, tiny_config
from PIL import Image

from sapo_vl.errors import SetupError
from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.engine_input import (
    EnginePictures,
    ProcessedPrompt,
    picture_hash,
    picture_places,
)
from sapo_vl.generator.hf_generate import HFGenerator
from sapo_vl.generator.vllm_engine import _start
from sapo_vl.model.assets import open_assets
from sapo_vl.runs import signals

FOLDERS_OWN = {
    "repetition_penalty": 1.9,
    "no_repeat_ngram_size": 1,
    "min_p": 0.9,
    "temperature": 0.1,
    "top_k": 1,
    "max_new_tokens": 2,
    "suppress_tokens": list(range(20, 200)),
}


def responses(folder, prompts, params) -> list[tuple]:
    generator = HFGenerator(tiny_config(folder), open_assets(folder))
    groups = generator.generate(requests_of(prompts, params, [5]))
    return [(r.token_ids, r.generator_logprobs.tolist(), r.text) for g in groups for r in g]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_the_folders_own_sampling_settings_do_not_matter(
    tiny_folder, tmp_path, renderer, temperature
):
    other = tmp_path / "model"
    shutil.copytree(tiny_folder, other)
    file = other / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | FOLDERS_OWN))
    prompts = renderer.render([make_sample()])
    params = SamplingParams(4, temperature, 12)
    if temperature == 0:
        params = SamplingParams(1, 0.0, 12)
    assert responses(other, prompts, params) == responses(tiny_folder, prompts, params)


def test_requests_with_one_picture_travel_with_one_picture():
    """Ranks of one engine send each other pickles of what vLLM needs."""
    patches = EnginePictures(
        torch.zeros(100, 60, dtype=torch.bfloat16), torch.tensor([[1, 10, 10]]), ["a"]
    )
    prompt = ProcessedPrompt([1, 2, 3], patches)
    one, four = (
        len(pickle.dumps([(prompt, SamplingParams(1, 1.0, 4), i) for i in range(n)]))
        for n in (1, 4)
    )
    assert 12_000 < one < 13_500
    assert four < one + 1000


def test_the_places_of_pictures_are_the_runs_of_their_token():
    assert picture_places([5, 9, 9, 9, 6, 5, 9, 6, 1], 9) == [(1, 3), (6, 1)]
    assert picture_places([9, 9], 9) == [(0, 2)]
    assert picture_places([1, 2], 9) == []


def test_a_pictures_hash_depends_on_pixels_and_size():
    white, black = (Image.new("RGB", (4, 2), colour) for colour in ("white", "black"))
    hashes = {picture_hash(image) for image in (white, black, Image.new("RGB", (2, 4), "white"))}
    assert len(hashes) == 3
    assert picture_hash(white.copy()) == picture_hash(white)


@pytest.mark.parametrize(
    ("told", "on_gpu", "advice"),
    [
        (
            "Free memory on device cuda:0 (25.0/79.1 GiB) on startup is less than desired GPU "
            "memory utilization (0.4, 31.6 GiB). Decrease GPU memory utilization or",
            True,
            "lower generator.gpu_memory_utilization,",
        ),
        (
            "To serve at least one request with the model's max seq len (6144), (0.8 GiB KV cache "
            "is needed, which is larger than the available KV cache memory (0.5 GiB).",
            True,
            "raise generator.gpu_memory_utilization or lower generator.max_model_len",
        ),
        (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
            False,
            "raise generator.kv_cache_mb or lower generator.max_model_len",
        ),
        (
            "User-specified max_model_len (9000) is greater than the derived max_model_len (4096)",
            False,
            "lower generator.max_model_len to what the model has positions for",
        ),
    ],
)
def test_too_little_memory_names_the_key(told, on_gpu, advice):
    """The messages are vLLM's (v1/worker/utils.py, v1/core/kv_cache_utils.py)."""

    def engine(**settings):
        raise ValueError(f"{told}\nmore")

    with pytest.raises(SetupError) as caught:
        _start(engine, on_gpu)
    assert str(caught.value).startswith(advice)
    assert str(caught.value).endswith(f"vLLM: {told} more")


def test_another_error_of_the_engine_stays_as_it_is():
    def engine(**settings):
        raise ValueError("max_model_len")

    with pytest.raises(ValueError, match=r"^max_model_len$"):
        _start(engine, True)


def test_without_a_watchdog_there_is_no_heartbeat(monkeypatch):
    monkeypatch.setattr(signals, "_watchdog", None)
    monkeypatch.setattr(
        signals.faulthandler, "dump_traceback_later", lambda *a, **k: pytest.fail("started")
    )
    signals.beat()
