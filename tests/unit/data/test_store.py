"""Samples on disk: what is written is read back, and a user's mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sapo_vl.data import shards, store
from sapo_vl.data.records import validate
from sapo_vl.errors import DataError
from sapo_vl.schema import ANSWER_TYPES, Sample


def png(colour=(250, 0, 0), size=(8, 6)):
    out = BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def sample(number=0, **changes):
    plain = Sample(
        id=f"s-{number}",
        dataset="made",
        task="red",
        problem="<image>What colour?",
        images=(png((number % 256, 0, 0)),),
        answer="red",
        answer_type="text",
    )
    return replace(plain, **changes)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])).filter(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    problem=TEXT.filter(lambda text: "<image>" not in text),
    answer=TEXT,
    choices=st.lists(st.text(st.characters(codec="utf-8")), max_size=4),
    kind=st.sampled_from([t for t in ANSWER_TYPES if t != "choice"]),
    precision=st.none() | st.integers(0, 9),
    solution=st.none() | st.text(st.characters(codec="utf-8")),
    metadata=st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=3),
    pictures=st.integers(0, 3),
)
def test_any_text_and_metadata_survive(
    tmp_path, problem, answer, choices, kind, precision, solution, metadata, pictures
):
    written = sample(
        problem="<image>" * pictures + problem,
        images=tuple(png((n, 1, 2)) for n in range(pictures)),
        answer=answer,
        choices=tuple(choices),
        answer_type=kind,
        precision=precision,
        unit="cm",
        solution=solution,
        metadata=metadata,
    )
    store.write(tmp_path / "set", [written], overwrite=True)
    assert store.load(tmp_path / "set", "train")[0] == written


def test_shards_counts_and_random_access(tmp_path):
    samples = [sample(n, split="test" if n % 5 == 4 else "train") for n in range(100)]
    counts = store.write(tmp_path / "set", iter(samples), shard_rows=30)
    assert counts == shards.Counts(
        rows={"train": 80, "test": 20},
        images=100,
        image_bytes=sum(len(s.images[0]) for s in samples),
        files=4,
    )
    names = [f"train-0000{n}.parquet" for n in range(3)]
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["test-00000.parquet", *names]
    assert [pq.read_metadata(tmp_path / "set" / n).num_rows for n in names] == [30, 30, 20]
    train = store.load(tmp_path / "set", "train")
    wanted = [s for s in samples if s.split == "train"]
    assert len(train) == 80
    assert train.ids == [s.id for s in wanted]
    assert [train[n] for n in (79, 0, 29, 30, 31, -1)] == [
        wanted[n] for n in (79, 0, 29, 30, 31, 79)
    ]
    assert list(train) == wanted
    assert train[10:13] == wanted[10:13]
    for outside in (80, -81):
        with pytest.raises(IndexError):
            train[outside]


def test_few_rows_are_read_at_a_time_and_few_are_kept(tmp_path):
    store.write(tmp_path / "set", (sample(n) for n in range(1000)))
    train = store.load(tmp_path / "set", "train")
    assert sum(1 for _ in train) == 1000
    held = sum(map(len, train._cache.values()))
    assert held <= store.CACHED_GROUPS * shards.ROW_GROUP_ROWS == 256


def test_datasets_shows_the_pictures(tmp_path):
    datasets = pytest.importorskip("datasets")
    store.write(tmp_path / "set", [sample(7), sample(8, split="test", choices=("a", "b"))])
    (tmp_path / "set" / shards.REPORT_NAME).write_text("{}")
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache")
    )
    assert set(loaded) == {"train", "test"}
    assert loaded["train"][0]["images"][0].getpixel((0, 0)) == (7, 0, 0)
    assert loaded["test"][0]["choices"] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": "no mark"}, "marks and images differ: 0 <image> for 1 images"),
        ({"problem": "<image><image>two"}, "2 <image> for 1"),
        ({"problem": "<image> \n"}, "the problem has no text"),
        ({"images": (b"no picture",)}, "image 1: not an image file (10 bytes)"),
        ({"answer": " "}, "the gold answer is empty"),
        ({"answer_type": "nummer"}, "unknown: 'nummer'; allowed: number, expression"),
        ({"answer_type": "choice", "answer": "C", "choices": ("x", "y")}, "'C'; A, B"),
        ({"split": "dev"}, "unknown: 'dev'; allowed: train, test"),
        ({"answer": "\ud800"}, "cannot be stored"),
        ({"metadata": {"a": float("nan")}}, "cannot be stored"),
        ({"metadata": {"a": {1, 2}}}, "cannot be stored"),
    ],
)
def test_a_bad_sample_is_named(tmp_path, changes, words):
    with pytest.raises(DataError, match=r"made record 's-3'") as raised:
        store.write(tmp_path / "set", [sample(1), sample(3, **changes)])
    assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_good_choices_pass():
    validate(sample(answer_type="choice", answer="B", choices=("x", "y")))
    validate(sample(answer_type="choice", answer="B"))


def test_the_same_id_twice_and_no_samples_at_all(tmp_path):
    with pytest.raises(DataError, match="record 's-1'"):
        store.write(tmp_path / "set", [sample(1), sample(1)])
    with pytest.raises(DataError, match="no samples"):
        store.write(tmp_path / "set", [])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_data_set_is_safe(tmp_path):
    folder = tmp_path / "set"
    store.write(folder, [sample(1)])
    with pytest.raises(DataError, match="holds a data set already"):
        store.write(folder, [sample(2)])
    with pytest.raises(DataError, match="gold answer is empty"):
        store.write(folder, [sample(2), sample(3, answer="")], overwrite=True)
    assert store.load(folder, "train").ids == ["s-1"]
    store.write(folder, [sample(2)], overwrite=True)
    assert store.load(folder, "train").ids == ["s-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"other files \(thesis.txt"):
        store.write(tmp_path, [sample(1)], overwrite=True)
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(DataError, match="is a file"):
        store.write(tmp_path / "thesis.txt", [sample(1)])


def test_loading_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; run: sapo-vl prepare"):
        store.load(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match=r"no train-\*.parquet"):
        store.load(tmp_path, "train")
    store.write(tmp_path / "set", [sample(1)])
    with pytest.raises(DataError, match="has no split 'test', only train"):
        store.load(tmp_path / "set", "test")


def test_foreign_and_broken_files(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "question": ["?"]}), tmp_path / "train-00000.parquet")
    with pytest.raises(DataError, match=r"train-00000.parquet: columns missing: dataset, task, pr"):
        store.load(tmp_path, "train")
    (tmp_path / "test-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="not a readable parquet file"):
        store.load(tmp_path, "test")
