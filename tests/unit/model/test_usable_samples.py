"""Which records of a prepared split are used, and why the others are not."""

from __future__ import annotations

import re
from dataclasses import replace

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


def test_faulty_records_are_left_out_by_cause_with_an_example(
    tmp_path, tiny_folder, renderer, capsys
):
    samples = [make_sample([(64, 64)], seed=i, name=f"r{i}") for i in range(8)]
    samples[2] = replace(samples[2], problem="<image>What is <|image_pad|>?")
    samples[3] = replace(samples[3], images=(samples[3].images[0][:900],))
    samples[5] = replace(samples[5], images=(samples[5].images[0][:800],))
    store.write(tmp_path / "d", samples)
    config = tiny_config(tiny_folder)
    usable = usable_samples(config, renderer, tmp_path / "d", "train", "data.path")
    assert usable.column("id") == ["r0", "r1", "r4", "r6", "r7"]
    assert [usable.id_at(i) for i in range(5)] == usable.column("id")
    assert usable.subset([4, 0]).column("id") == ["r7", "r0"]
    printed = capsys.readouterr().out
    assert re.search(r"1 of 8 .*<\|image_pad\|>.*\(r2, \.\.\)", printed)
    assert re.search(r"2 of 8 .*\(r3, \.\.\)", printed)


def test_mostly_faulty_records_stop_the_run(tmp_path, tiny_folder, renderer):
    samples = [make_sample(text="See <|image_pad|>", name=f"r{i}") for i in range(3)]
    store.write(tmp_path / "d", [*samples, make_sample(name="fine")])
    with pytest.raises(DataError, match=r"most of the 4 records .*record r0: .*image_pad"):
        usable_samples(tiny_config(tiny_folder), renderer, tmp_path / "d", "train", "data.path")
