"""A data set's fingerprint follows its records, not its folder, its clock or its file's bytes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
from helpers import make_sample, picture

from sapo_vl.data import store
from sapo_vl.data.content import content_fingerprint
from sapo_vl.errors import DataError


def test_a_fingerprint_follows_the_records(tmp_path):
    samples = [make_sample([(8, 8)], name="a"), make_sample([(8, 8)], name="b")]
    store.write(tmp_path / "one", samples)
    reference = content_fingerprint(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    os.utime(tmp_path / "copy" / "train-00000.parquet", (1, 1))
    (tmp_path / "copy" / "report.json").write_text("{}")
    assert content_fingerprint(tmp_path / "copy") == reference
    others = {
        "order": samples[::-1],
        "gold": [samples[0], replace(samples[1], answer="8")],
        "problem": [samples[0], replace(samples[1], problem="<image>?")],
        "picture": [samples[0], replace(samples[1], images=(picture(9, 9),))],
        "fewer": samples[:1],
        "split": [samples[0], replace(samples[1], split="test")],
    }
    found = {reference}
    for name, records in others.items():
        store.write(tmp_path / name, records)
        found.add(content_fingerprint(tmp_path / name))
    assert len(found) == 1 + len(others)


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "train-00000.parquet").write_text("rubbish")
    with pytest.raises(DataError, match=r"train-00000\.parquet"):
        content_fingerprint(tmp_path)
