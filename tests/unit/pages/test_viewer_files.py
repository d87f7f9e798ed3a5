"""Reading rollout files: ranks, old and damaged files, what is read when."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
from viewer_runs import make_group, png, reply, some_groups, write_old, write_run

from sapo_vl.errors import DataError
from sapo_vl.pages.viewer import selection
from sapo_vl.pages.viewer.files import LIGHT, SCALARS, RolloutFile, RolloutFiles
from sapo_vl.pages.viewer.selection import Query
from sapo_vl.training import rollouts


@pytest.fixture
def run(tmp_path):
    steps = {step: [some_groups(step), some_groups(step, 1)] for step in (1, 2)}
    return write_run(tmp_path / "run", steps)


def test_the_ranks_files_of_a_step_are_one_step(run):
    files = RolloutFiles(run)
    assert list(files.steps) == [1, 2]
    groups = files.groups(2)
    assert [g.id for g in groups] == ["s0", "s1", "s2", "r0", "r1", "r2"]
    assert [g.key for g in groups] == ["2-0-0", "2-0-3", "2-0-6", "2-1-0", "2-1-3", "2-1-6"]
    assert files.group("2-1-3") is groups[4]
    assert files.group("2-1-4") is files.group("x") is files.group("9-0-0") is None
    assert [r.correct for r in groups[1].responses] == [True, False, False]
    first = groups[1].responses[0]
    length = len("<think>2 + 1</think>\\boxed{8}") + 1
    assert (first.tokens, first.reward, first.advantage) == (length, 1.0, 1.0)
    assert (first.mean_logprob, first.largest_mismatch) == (-1.0, 0.25)
    assert first.largest_log_ratio == pytest.approx(0.1)


def test_a_group_is_loaded_whole_with_responses_by_reward(run):
    files = RolloutFiles(run)
    loaded = files.load(files.groups(1)[5], tokens=True)
    assert (loaded.problem, loaded.answer) == ("<image>What is 2 plus 1?", "8")
    assert loaded.images == (png(),)
    assert [r.summary.reward for r in loaded.responses] == [1, 1, 0]
    assert [r.text[-9:] for r in loaded.responses] == ["\\boxed{8}", "\\boxed{9}", "boxed{10}"]
    assert loaded.responses[2].terms == (("boxed", "wrong", 0.0, "by hand"),)
    values = loaded.responses[2].tokens
    assert values["log_ratios"][-1] == pytest.approx(0.4)
    assert values["gate_weights"][0] == 0
    assert len(values["token_ids"]) == loaded.responses[2].summary.tokens
    assert files.load(files.groups(1)[5]).responses[0].tokens == {}


def test_opening_reads_footers_and_a_list_reads_no_texts(run, monkeypatch):
    read, asked = RolloutFile.read, []

    def recorded(self, columns, *rows):
        asked.append(columns)
        return read(self, columns, *rows)

    monkeypatch.setattr(RolloutFile, "read", recorded)
    files = RolloutFiles(run)
    assert asked == []
    files.groups(1)
    files.groups(1)
    assert asked == [("group", *LIGHT, *SCALARS)] * 2  # once by rank
    files.steps_of("s0")
    files.steps_of("s1")
    assert asked[2:] == [("id",)] * 4


def test_a_group_is_read_from_its_own_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "ROW_GROUP_TOKENS", 1)
    run = write_run(tmp_path / "run", {1: [some_groups(1)]})
    read, asked = pq.ParquetFile.read_row_groups, []

    def recorded(self, numbers, **options):
        asked.append(numbers)
        return read(self, numbers, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", recorded)
    files = RolloutFiles(run)
    groups = files.groups(1)
    assert asked == [[0, 1, 2]]
    assert files.load(groups[1]).problem == "<image>What is 1 plus 1?"
    assert asked[1:] == [[1]]
    assert files.problems(1)[groups[2].key] == "<image>What is 2 plus 1?"


def test_files_of_an_older_release_open_without_what_they_lack(run, tmp_path):
    new = run / "rollouts" / "step_000001-rank0.parquet"
    write_old(tmp_path / "old" / "rollouts" / "step_000001.parquet", pq.read_table(new).to_pylist())
    files = RolloutFiles(tmp_path / "old")
    for old, now in zip(files.groups(1), RolloutFiles(run).groups(1)[:3], strict=True):
        assert (old.id, len(old.responses)) == (now.id, 3)
        for a, b in zip(old.responses, now.responses, strict=True):
            assert (a.tokens, a.mean_logprob, a.largest_mismatch) == (b.tokens, -1.0, 0.25)
            assert a.largest_log_ratio is None
    assert files.lacks(1, "gate_weights")
    assert not files.lacks(1, "old_logprobs")
    values = files.load(files.groups(1)[0], tokens=True).responses[0].tokens
    assert values["gate_weights"] is None
    assert len(values["old_logprobs"]) == 30


def test_what_is_no_rollout_file_is_named_and_the_rest_opens(run):
    folder = run / "rollouts"
    whole = (folder / "step_000002-rank1.parquet").read_bytes()
    (folder / "step_000003.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "step_000004.parquet").write_bytes(b"")
    (folder / ".step_000005.parquet.partial").write_bytes(whole[:100])
    (folder / "notes.txt").write_text("mine")
    pq.write_table(pq.read_table(folder / "step_000002-rank0.parquet").drop_columns("valid"),
                   folder / "step_000006.parquet")  # fmt: skip
    files = RolloutFiles(run)
    assert list(files.steps) == [1, 2]
    assert set(files.faults) == {
        "step_000003.parquet", "step_000004.parquet", ".step_000005.parquet.partial", "notes.txt",
        "step_000006.parquet",
    }  # fmt: skip
    assert files.faults["step_000003.parquet"].startswith("cut off or damaged (")
    assert files.faults["notes.txt"].startswith("not a name of a rollout file")
    assert files.faults[".step_000005.parquet.partial"].startswith("half written")
    assert "no column valid" in files.faults["step_000006.parquet"]
    assert all("\n" not in reason for reason in files.faults.values())


def test_a_file_with_damaged_pages_is_named_when_it_is_read(run):
    path = run / "rollouts" / "step_000002-rank0.parquet"
    data = bytearray(path.read_bytes())
    data[4:600] = b"\x00" * 596  # its footer is whole
    path.write_bytes(bytes(data))
    files = RolloutFiles(run)
    assert files.faults == {}
    assert [g.id for g in files.groups(2)] == ["r0", "r1", "r2"]
    assert list(files.faults) == [path.name]


def test_text_that_is_not_utf8_is_named(run):
    import pyarrow as pa

    path = run / "rollouts" / "step_000001-rank1.parquet"
    table = pq.read_table(path)
    raw = pa.array([b"\xff\xfe"] * len(table)).cast(pa.string(), safe=False)
    pq.write_table(table.set_column(table.column_names.index("id"), "id", raw), path)
    files = RolloutFiles(run)
    assert [g.id for g in files.groups(1)] == ["s0", "s1", "s2"]
    assert list(files.faults) == [path.name]


def test_a_folder_without_rollouts_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        RolloutFiles(tmp_path / "none")
    with pytest.raises(DataError, match=r"run\.rollouts_every"):
        RolloutFiles(tmp_path)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000001.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no file of 1 can be read; step_000001\.parquet: "):
        RolloutFiles(tmp_path)


def test_a_problem_is_found_over_the_steps(run):
    files = RolloutFiles(run)
    assert files.steps_of("s2") == [1, 2]
    assert files.steps_of("nobody") == []


SURE, UNSURE = math.log(0.95), math.log(0.85)


@pytest.fixture
def mixed(tmp_path):
    groups = [
        make_group("right", [reply("a"), reply("b")], task="x"),
        make_group("wrong", [reply("a", False, logprob=UNSURE), reply("b", False)], task="y"),
        make_group("sure", [reply("a"), reply("b", False, logprob=SURE)]),
        make_group("cut", [reply("a"), reply("longer", finish="length")], problem="A $2 Tax?"),
        make_group("blind", [reply("a", False, valid=False), reply("b", log_ratio=-3.0)]),
    ]
    return RolloutFiles(write_run(tmp_path / "run", {7: [groups]}))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), ["right", "wrong", "sure", "cut", "blind"]),
        (Query(show="unheard of", sort="unheard of"), ["right", "wrong", "sure", "cut", "blind"]),
        (Query(task="x"), ["right"]),
        (Query(show="confident"), ["sure"]),
        (Query(show="cut"), ["cut"]),
        (Query(show="no_verdict"), ["blind"]),
        (Query(show="all_right"), ["right", "cut", "blind"]),
        (Query(show="all_wrong"), ["wrong"]),
        (Query(show="mixed"), ["sure"]),
        (Query(show="drift"), ["blind"]),
        (Query(show="all_right", task="x"), ["right"]),
        (Query(search="tax  a"), ["cut"]),
        (Query(search="BLIND"), ["blind"]),
        (Query(sort="lowest"), ["wrong", "sure", "right", "cut", "blind"]),
        (Query(sort="longest"), ["cut", "right", "wrong", "sure", "blind"]),
        (Query(sort="log_ratio"), ["blind", "right", "wrong", "sure", "cut"]),
        (Query(sort="spread"), ["sure", "blind", "right", "wrong", "cut"]),
    ],
)
def test_filters_sorts_and_search(mixed, query, expected):
    assert [g.id for g in query.apply(mixed, 7)] == expected


def test_a_cards_flags_are_the_filters_that_show_it(mixed):
    groups = mixed.groups(7)
    limit = selection.drift_limit(groups)
    for group in groups:
        shown = [n for n in selection.LABELS if n and group in Query(show=n).apply(mixed, 7)]
        assert selection.flags(group, limit) == shown


def test_the_largest_drift_is_a_tenth_of_the_groups(tmp_path):
    groups = [make_group(f"g{i}", [reply("a", log_ratio=0.01 * i)]) for i in range(20)]
    files = RolloutFiles(write_run(tmp_path / "run", {1: [groups]}))
    assert [g.id for g in Query(show="drift").apply(files, 1)] == ["g18", "g19"]
