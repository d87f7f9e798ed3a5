"""Exports: another trainer's format, read back by the source of the same name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import make_sample

from sapo_vl.data import store
from sapo_vl.data.export import export
from sapo_vl.data.source_loader import source_function
from sapo_vl.errors import DataError


def sample(number, sizes=((64, 64),), **changes):
    return replace(make_sample(sizes, number, name=f"s{number}"), **changes)


@pytest.mark.parametrize("form", ["easyr1", "trl", "verl"])
def test_exports_are_read_back(form, tmp_path):
    two = sample(1, ((40, 40), (50, 40)), problem="<image> and <image>: which?", answer="B")
    text = sample(2, (), problem="1 + 1?", answer="2", split="test")
    store.write(tmp_path / "in", [sample(0), two, text])
    assert export(tmp_path / "in", tmp_path / "out", form) == {"test": 1, "train": 2}
    with pytest.raises(DataError, match="out already exists"):
        export(tmp_path / "in", tmp_path / "out", form)
    for split, kept in (("train", [sample(0), two]), ("test", [text])):
        back = list(source_function(form)(tmp_path / "out" / f"{split}.parquet"))
        for old, new in zip(kept, back, strict=True):
            assert (new.problem, new.images, new.answer) == (old.problem, old.images, old.answer)
    whole = source_function(form)(tmp_path / "out")
    assert sorted(s.split for s in whole) == ["test", "train", "train"]
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert table[1]["images"][1].size == (50, 40)
