"""Which records of a prepared split are used, and why the others are not."""

from __future__ import annotations

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.model.usable_samples import usable_samples


def test_records_that_do_not_fit_are_left_out_with_a_reason(
    tmp_path, tiny_folder, renderer, capsys
):
    samples = [
        make_sample([(64, 64)], name="fits"),
        make_sample([(128, 128)] * 3, name="long"),  # 192 visual tokens
        make_sample([(20, 20)] * 3, name="crowded"),
        make_sample([], name="text"),
    ]
    store.write(tmp_path / "d", samples)
    config = tiny_config(tiny_folder, "data.max_prompt_tokens=80", "generator.max_images=2")
    samples = usable_samples(config, renderer, tmp_path / "d", "train", "data.path")
    assert [sample.id for sample in samples] == ["fits", "text"]
    assert [sample.id for sample in samples[:1]] == ["fits"]
    assert samples[1].id == "text"
    assert samples.column("id") == ["fits", "text"]
    printed = capsys.readouterr().out
    assert "1 of 4 records left out, longer than 80 tokens (long" in printed
    assert "1 of 4 records left out, more than generator.max_images=2 images (crowded" in printed


def test_prompt_and_response_must_fit_the_model_length(tmp_path, tiny_folder, renderer):
    store.write(tmp_path / "d", [make_sample([(64, 64)])])
    ((length, _),) = renderer.check([make_sample([(64, 64)])])
    fits = tiny_config(
        tiny_folder, f"generator.max_model_len={length + 16}", "rollout.max_new_tokens=16"
    )
    assert len(usable_samples(fits, renderer, tmp_path / "d", "train", "data.path")) == 1
    narrow = tiny_config(
        tiny_folder, f"generator.max_model_len={length + 15}", "rollout.max_new_tokens=16"
    )
    with pytest.raises(DataError, match=r"none of the 1 records .* fits; raise data"):
        usable_samples(narrow, renderer, tmp_path / "d", "train", "data.path")
