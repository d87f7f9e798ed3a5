"""learner.deepspeed: what it may set, and that everything else is refused by name."""

from __future__ import annotations

import json

import pytest
from helpers import SHARED, tiny_config

from sapo_vl.errors import ConfigError
from sapo_vl.learner.deepspeed_config import OURS, deepspeed_settings

FILES = SHARED / "cases" / "train" / "deepspeed"


def settings(tmp_path, content, *overrides):
    path = tmp_path / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    keys = (f"learner.deepspeed={path}", "learner.zero_stage=2", *overrides)
    return deepspeed_settings(tiny_config(tmp_path, *keys))


def refusal(tmp_path, content, *overrides) -> str:
    with pytest.raises(ConfigError, match=r"learner\.deepspeed=.*ds\.json") as caught:
        settings(tmp_path, content, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_tunes_what_is_not_ours(tmp_path):
    found = settings(
        tmp_path,
        {
            "zero_optimization": {"reduce_bucket_size": 7, "overlap_comm": True},
            "dump_state": True,
            "communication_data_type": "fp32",
        },
    )
    assert found["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 7, "overlap_comm": True}
    assert found["dump_state"] is True
    assert found["gradient_accumulation_steps"] == 1


@pytest.mark.parametrize("key", OURS)
def test_a_key_that_follows_from_ours_names_ours(tmp_path, key):
    content: object = "auto"
    for part in reversed(key.split(".")):
        content = {part: content}
    text = refusal(tmp_path, content)
    assert key in text
    assert OURS[key] in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "ds.json"),
        ("[]", "not a list"),
        ("7", "not a int"),
        ("null", "not a NoneType"),
        ('{"dump_state": 1, "dump_state": 2}', "given twice"),
        ("[" * 100_000, "ds.json"),
        ({"dump_stat": True}, "did you mean 'dump_state'"),
        ({"gradient_clippin": 1}, "did you mean 'gradient_clipping'"),
        ({"bf16": {"enabled": True}}, "model.dtype"),
        ({"zero_optimization": {"reduce_bucket_siz": 1}}, "did you mean 'reduce_bucket_size'"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "zero_optimization.reduce_bucket"),
        ({"zero_optimization": {"reduce_bucket_size": "big"}}, "zero_optimization.reduce_bucket"),
        ({"zero_optimization": []}, "must be an object"),
        ({"zero_optimization": {"stage": 3}}, "learner.zero_stage"),
        ({"communication_data_type": "auto"}, "communication_data_type='auto'"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_overlap_needs_a_stage_that_has_it(tmp_path):
    text = refusal(tmp_path, {"zero_optimization": {"overlap_comm": True}}, "learner.zero_stage=1")
    assert "learner.zero_stage=2" in text


def test_gradients_add_up_in_float32_where_asked(tmp_path):
    keys = ("model.dtype=bfloat16", "learner.grad_accum_dtype=float32")
    assert settings(tmp_path, {}, *keys)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "data_types" not in settings(tmp_path, {}, "learner.grad_accum_dtype=float32")
    assert "data_types" not in settings(tmp_path, {}, "model.dtype=bfloat16")
    with pytest.raises(ConfigError, match=r"learner\.grad_accum_dtype.*learner\.zero_stage"):
        tiny_config(tmp_path, *keys, "learner.zero_stage=1")


@pytest.mark.skipif(not FILES.is_dir(), reason="no shared cases beside the repository")
@pytest.mark.parametrize("path", sorted(FILES.glob("*.json")), ids=lambda path: path.stem)
def test_shared_files_are_refused(tmp_path, path):
    refusal(tmp_path, path.read_text())
