"""prepare: nothing disappears silently, no picture is on both sides, mistakes are named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import SHARED

from sapo_vl.data import DATASETS, store, synthetic
from sapo_vl.data.images import header_size
from sapo_vl.data.prepare import PrepareOptions, prepare
from sapo_vl.data.split import split_of
from sapo_vl.data.synthetic import SyntheticOptions
from sapo_vl.errors import ConfigError, DataError, UserError

RAW = SHARED / "raw" / "mathvision"

OWN_SOURCE = """
from io import BytesIO
from PIL import Image
from sapo_vl.data import Dropped
from sapo_vl.schema import Sample


def png(shade, mode="L"):
    out = BytesIO()
    Image.new(mode, (4, 4), shade).save(out, "PNG")
    return out.getvalue()


def sample(number, shades, **fields):
    fields = {"answer": "1", **fields}
    return Sample(id=f"r{number}", dataset="own", task="t", problem="<image>" * len(shades) + "?",
                  images=tuple(png(s) for s in shades), **fields)


def rows(source):
    assert source == "files"
    for n in range(200):
        yield sample(n, [n])
    yield sample(0, [0])
    yield sample(300, [3], answer="")
    yield sample(301, [3], answer="")
    yield Dropped("r302", "missing image file: a.png")
    yield Sample(id="r303", dataset="own", task="t", problem="<image>?", answer="1",
                 images=(png((0, 0, 0, 9), "RGBA"),))


def pairs(source):
    for n in range(100):
        yield sample(n, [n, n + 1])
    yield Sample(id="text", dataset="own", task="t", problem="1+1?", images=(), answer="2")


def both(source):
    for n in range(50):
        yield sample(n, [n], split="test" if n < 20 else "train")


def broken(source):
    yield sample(1, [1])
    yield Sample(id="r2", dataset="own", task="t", problem="<image>?", answer="1",
                 images=(png(7)[:50],))


def unread(source):
    raise AssertionError("an occupied folder is refused before the source is read")
    yield


def nothing(source):
    yield Dropped("r1", "missing image file: a.png")


def failing(source):
    yield sample(1, [1])
    raise KeyError("gold")


def dicts(source):
    yield {"question": "?"}


number = 5
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN_SOURCE)
    return file


def test_a_users_own_source_and_its_report(own, tmp_path):
    report = prepare(
        f"{own}:rows", PrepareOptions(tmp_path / "set", source="files", on_error="skip")
    )
    assert report.read == 205
    assert {cause: (d.count, d.examples) for cause, d in report.dropped.items()} == {
        "the id is repeated": (1, ["r0"]),
        "the gold answer is empty": (2, ["r300", "r301"]),
        "missing image file": (1, ["r302 (a.png)"]),
    }
    assert sum(report.kept.values()) + 4 == 205
    assert 15 <= report.kept["test"] <= 45
    assert report.changed == {
        "transparent, composited on white": 1,
        "a side under 32 pixels, scaled up when rendered": 201,
        "one colour only, so that nothing is to be seen": 201,
    }
    assert json.loads((tmp_path / "set" / "report.json").read_text())["kept"] == report.kept
    table = report.table().splitlines()
    assert "  read            205" in table
    assert "  dropped           2  the gold answer is empty: r300, r301" in table
    for split in ("train", "test"):
        for sample in store.load(tmp_path / "set", split):
            assert split_of(sample.images[0], 0.15) == sample.split == split


def test_the_split_is_the_same_for_other_limits(own, tmp_path):
    prepare(f"{own}:rows", PrepareOptions(tmp_path / "all", source="files", on_error="skip"))
    part = prepare(f"{own}:rows", PrepareOptions(tmp_path / "part", source="files", limit=60))
    assert part.read == 60
    whole = set(store.load(tmp_path / "all", "test").ids)
    assert set(store.load(tmp_path / "part", "test").ids) == {
        name for name in whole if int(name[1:]) < 60
    }


def test_no_picture_is_on_both_sides(own, tmp_path):
    report = prepare(f"{own}:pairs", PrepareOptions(tmp_path / "set", holdout=0.4))
    sides = [
        {data for s in store.load(tmp_path / "set", split) for data in s.images}
        for split in ("train", "test")
    ]
    assert not sides[0] & sides[1]
    dropped = report.dropped["images in both splits"].count
    assert dropped > 0
    assert sum(report.kept.values()) + dropped == 101


def test_a_sources_own_two_splits_are_kept(own, tmp_path):
    report = prepare(f"{own}:both", PrepareOptions(tmp_path / "set"))
    assert report.kept == {"test": 20, "train": 30}


def test_a_picture_that_does_not_decode_is_dropped(own, tmp_path):
    report = prepare(f"{own}:broken", PrepareOptions(tmp_path / "set", holdout=0, on_error="skip"))
    assert report.kept == {"train": 1}
    assert report.dropped["an image cannot be read"].count == 1


def test_an_occupied_folder_is_refused_before_any_reading(own, tmp_path):
    with pytest.raises(DataError, match="other files"):
        prepare(f"{own}:unread", PrepareOptions(own.parent))


def test_nothing_left_is_an_error_that_says_why(own, tmp_path):
    with pytest.raises(DataError, match=r"own\.py:nothing .*1 missing image file"):
        prepare(f"{own}:nothing", PrepareOptions(tmp_path / "set", on_error="skip"))
    assert not (tmp_path / "set").exists()


def test_sides_by_hand():
    # 8-byte blake2b: 40f8... = 0.2538 of the range for "a", 8472... = 0.5174 for "b"
    assert [split_of(b"a", share) for share in (0, 0.253, 0.254)] == ["train", "train", "test"]
    assert [split_of(b"b", share) for share in (0.517, 0.518, 1)] == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mathvison", "did you mean 'mathvision'?"),
        ("gone.py:rows", "'gone.py'"),
        ("OWN:absent", "OWN defines no 'absent'"),
        ("OWN:number", "OWN:number"),
        ("OWN:failing", "record 1: KeyError('gold') in OWN, line 60"),
        ("OWN:dicts", "dict instead of a Sample: {'question': '?'}"),
        ("OWN", "path/to/file.py:NAME"),
    ],
)
def test_wrong_names(own, tmp_path, name, words):
    with pytest.raises(UserError) as raised:
        prepare(name.replace("OWN", str(own)), PrepareOptions(tmp_path / "set"))
    assert words.replace("OWN", str(own)) in str(raised.value)


def test_a_source_that_cannot_be_loaded(tmp_path):
    (tmp_path / "own.py").write_text("def rows(:\n")
    with pytest.raises(ConfigError, match=r"own\.py .*SyntaxError\('invalid syntax'"):
        prepare(f"{tmp_path}/own.py:rows", PrepareOptions(tmp_path / "set"))


def test_wrong_arguments(tmp_path):
    out = tmp_path / "set"
    with pytest.raises(ConfigError, match="source: mathvision needs the folder"):
        prepare("mathvision", PrepareOptions(out))
    with pytest.raises(ConfigError, match=r"holdout: 1\.5"):
        prepare("mathvision", PrepareOptions(out, source="x", holdout=1.5))
    with pytest.raises(ConfigError, match="teacher: 'strong'; allowed: weak, exact"):
        prepare("synthetic", PrepareOptions(out), SyntheticOptions(teacher="strong"))
    with pytest.raises(ConfigError, match="max_pixels: 1000"):
        prepare("mathvision", PrepareOptions(out, source="x", max_pixels=1000))
    with pytest.raises(ConfigError, match="count: -1"):
        prepare("synthetic", PrepareOptions(out), SyntheticOptions(count=-1))


@pytest.mark.parametrize(
    ("name", "options", "synthetic", "option"),
    [
        ("synthetic", {"source": "x"}, None, "source"),
        ("synthetic", {"columns": "answer=y"}, None, "map"),
        ("synthetic", {"holdout": 0.15}, None, "holdout"),
        ("synthetic", {"split": "train"}, None, "split"),
        ("synthetic", {"limit": 3}, None, "limit"),
        ("mathvision", {"source": "x", "columns": "answer=y"}, None, "map"),
        ("mathvision", {"source": "x"}, {"level": 3}, "level"),
        ("own.py:rows", {}, {"teacher": "exact"}, "teacher"),
        ("generic", {"source": "x"}, {}, "seed"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(tmp_path, name, options, synthetic, option):
    drawing = None if synthetic is None else SyntheticOptions(**synthetic)
    with pytest.raises(ConfigError, match=f"^{option}: .*{name}"):
        prepare(name, PrepareOptions(tmp_path / "set", **options), drawing)
    assert not any(tmp_path.iterdir())


def test_pictures_are_scaled_for_the_renderers_factor(tmp_path):
    def stored(factor):
        options = PrepareOptions(tmp_path / str(factor), max_pixels=2048, image_factor=factor)
        report = prepare("synthetic", options, SyntheticOptions(count=6, test_count=0))
        sample = store.load(tmp_path / str(factor), "train")[0]
        return header_size(sample.images[0]), report.visual_tokens, report.changed

    # 64 x 64 scaled by sqrt(4096 / 2048) is 45.3 x 45.3: one square of either factor
    scaled = {"over 2048 pixels, scaled down": 6}
    assert stored(32) == ((32, 32), 6, scaled)
    assert stored(28) == ((28, 28), 6, scaled)


def test_synthetic(tmp_path):
    report = prepare(
        "synthetic",
        PrepareOptions(tmp_path / "set"),
        SyntheticOptions(count=30, test_count=12, seed=4),
    )
    assert (report.read, report.kept, report.dropped) == (42, {"train": 30, "test": 12}, {})
    test = list(store.load(tmp_path / "set", "test"))
    assert test == list(synthetic.rows(seed=4, split="test", count=12))


@pytest.mark.skipif(not RAW.is_dir(), reason="the raw sample ../shared/raw is not here")
def test_mathvision(tmp_path):
    report = prepare("mathvision", PrepareOptions(tmp_path / "set", source=RAW, on_error="skip"))
    assert (report.read, report.images) == (304, 240)
    assert report.kept == {"train": 199, "test": 41}
    assert report.dropped["missing image file"].count == 64
    assert len(report.dropped["missing image file"].examples) == 3


def test_importing_the_package_is_light():
    heavy = ("torch", "vllm", "datasets", "PIL", "pyarrow")
    check = f"import sys, sapo_vl.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    modules = ", ".join(["sapo_vl.data.prepare", *DATASETS.values()])
    check = f"import sys, {modules}; print([m for m in {heavy[:3]} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_preparation_goes_on_where_it_was_interrupted(own, tmp_path, monkeypatch):
    monkeypatch.setattr("sapo_vl.data.prepare.CHECKPOINT_RECORDS", 50)
    arguments = {"source": "files", "out": tmp_path / "set", "on_error": "skip"}
    whole = prepare(
        f"{own}:rows", PrepareOptions(tmp_path / "whole", source="files", on_error="skip")
    )

    def stop(report):
        if report.read == 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(f"{own}:rows", PrepareOptions(**arguments), tick=stop)
    assert not (tmp_path / "set").exists()
    read = []
    report = prepare(f"{own}:rows", PrepareOptions(**arguments), tick=lambda r: read.append(r.read))
    assert read[0] == 101
    assert (report.read, report.kept, report.dropped) == (205, whole.kept, whole.dropped)
    assert (report.changed, report.visual_tokens) == (whole.changed, whole.visual_tokens)
    for split in ("train", "test"):
        assert list(store.load(tmp_path / "set", split)) == list(
            store.load(tmp_path / "whole", split)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.py", "set", "whole"]


def test_a_fault_stops_and_names_the_record(own, tmp_path):
    with pytest.raises(
        DataError, match=r"record 'r0' of files: the id is repeated; .* --on-error skip"
    ):
        prepare(f"{own}:rows", PrepareOptions(tmp_path / "set", source="files"))
    with pytest.raises(DataError, match=r"record 'r2': an image cannot be read: image 1: "):
        prepare(f"{own}:broken", PrepareOptions(tmp_path / "set"))
    assert [p.name for p in tmp_path.iterdir()] == ["own.py"]


def test_two_preparations_of_one_folder_do_not_mix(own, tmp_path):
    def again(report):
        with pytest.raises(DataError, match="another process is writing it"):
            prepare(f"{own}:both", PrepareOptions(tmp_path / "set"))

    prepare(f"{own}:both", PrepareOptions(tmp_path / "set"), tick=again)


def test_gold_answers_that_no_verifier_reads_are_counted(own, tmp_path):
    def check(sample):
        return "odd" if int(sample.id[1:]) % 2 else None

    report = prepare(f"{own}:both", PrepareOptions(tmp_path / "set"), check=check)
    assert report.kept == {"test": 10, "train": 15}
    assert report.dropped["no verifier reads the gold"].count == 25


def test_one_split_of_a_source(own, tmp_path):
    assert prepare(f"{own}:both", PrepareOptions(tmp_path / "a", split="test")).kept == {"test": 20}
    with pytest.raises(DataError, match="has no record of 'validation'"):
        prepare(f"{own}:both", PrepareOptions(tmp_path / "b", split="validation"))
