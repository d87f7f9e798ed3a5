"""What both engines share: settings from SamplingParams alone, and a heartbeat per request."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from helpers import bare_prompt, make_sample, tiny_config
from PIL import Image

from sapo_vl.generator.base import SamplingParams, requests_of
from sapo_vl.generator.hf_generate import HFGenerator
from sapo_vl.generator.vllm_engine import _request as vllm_request
from sapo_vl.generator.vllm_engine import progress
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
    """Ranks of one engine send each other pickles of what vLLM needs, without pixel tensors."""
    prompt = bare_prompt(images=1)
    prompt.images = [Image.new("RGB", (100, 100))]  # 30,000 bytes
    prompt.pixel_values = torch.zeros(10_000)
    one, four = (
        len(pickle.dumps([(vllm_request(prompt), SamplingParams(1, 1.0, 4), i) for i in range(n)]))
        for n in (1, 4)
    )
    assert 30_000 < one < 31_000
    assert four < one + 1000


def test_each_finished_request_is_a_heartbeat(monkeypatch):
    beats = []
    monkeypatch.setattr(
        signals.faulthandler, "dump_traceback_later", lambda *a, **k: beats.append(a)
    )
    monkeypatch.setattr(signals, "_minutes", 2.0)
    assert list(progress([1, 2], desc="x")) == [1, 2]
    bar = progress(total=3, desc="x", postfix="")
    bar.update(2)
    bar.update(2)
    bar.refresh()
    bar.close()
    assert bar.n == 4
    assert bar.format_dict["elapsed"] > 0
    assert beats == [(120.0,), (120.0,)]


def test_without_a_watchdog_there_is_no_heartbeat(monkeypatch):
    monkeypatch.setattr(signals, "_minutes", None)
    monkeypatch.setattr(
        signals.faulthandler, "dump_traceback_later", lambda *a, **k: pytest.fail("started")
    )
    signals.beat()
