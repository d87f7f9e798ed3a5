"""A resumed run refuses data and model folders that are no longer what it was started with."""

from __future__ import annotations

import shutil

import pytest
from helpers import make_sample, tiny_config

from sapo_vl.data import store
from sapo_vl.errors import DataError
from sapo_vl.training.inputs import check_inputs, input_fingerprints


def test_changed_inputs_are_named_and_moved_ones_are_not(tiny_folder, tmp_path):
    store.write(tmp_path / "data", [make_sample(name="a")])
    shutil.copytree(tiny_folder, tmp_path / "model")

    def resume(*keys: str, resume: bool = True) -> None:
        config = tiny_config(tmp_path / "model", f"data.path={tmp_path / 'data'}", *keys)
        check_inputs(tmp_path, input_fingerprints(config), resume=resume)

    resume(resume=False)
    resume()
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    resume(f"data.path={tmp_path / 'moved'}")
    with pytest.raises(DataError, match=r"data\.path"):
        resume("data.path=null")
    with pytest.raises(DataError, match=r"model\.path"):
        resume("model.path=tiny")
    store.write(tmp_path / "data", [make_sample(name="b")], overwrite=True)
    with pytest.raises(DataError, match=r"data\.path"):
        resume()
    resume(f"data.path={tmp_path / 'moved'}")
    (tmp_path / "model" / "chat_template.jinja").write_text("other")
    with pytest.raises(DataError, match=r"model\.path"):
        resume(f"data.path={tmp_path / 'moved'}")
    resume(resume=False)  # a start anew notes what there is
    resume()


def test_the_warm_ups_data_counts_too(tmp_path, tiny_folder):
    store.write(tmp_path / "data", [make_sample(name="a")])
    keys = ("sft.steps=3", f"sft.data={tmp_path / 'data'}")
    found = input_fingerprints(tiny_config(tiny_folder, *keys))
    assert found["sft.data"] != found["data.path"] == "made in the run"
    assert "sft.data" not in input_fingerprints(tiny_config(tiny_folder, keys[1]))
