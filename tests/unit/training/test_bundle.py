"""A bundle's folder: what is in it, how it is read again, and what is left out."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_training import Renderer
from helpers import bare_prompt

from sapo_vl.errors import DataError
from sapo_vl.model.prompts import Rendered
from sapo_vl.schema import Outcome, Reward, Rollout, Verdict
from sapo_vl.training import bundle
from sapo_vl.training.bundle import Content, Manifest, Name, groups_of, read_rollouts, write_bundle


class Renders(Renderer):
    """Prompts without a model, which keep their samples."""

    def render(self, samples) -> list:
        return [replace(bare_prompt(), sample=sample) for sample in samples]

    def render_usable(self, samples) -> Rendered:
        return Rendered(self.render(samples), {})


def rollouts() -> list[Rollout]:
    """Return two responses to a prompt with two pictures and one to a prompt without."""
    first, second = bare_prompt(images=2, name="a"), bare_prompt(name="b")
    right = Reward(1.0, True, True, {"boxed": Verdict(Outcome.CORRECT, 1.0, "7 == 7")})
    third = np.array([1 / 3, np.nan], np.float32)
    return [
        Rollout(first, [1, 2], "seven", advantage=0.1, old_logprobs=third, reward=right),
        Rollout(first, [3], "eight", advantage=-0.1, generator_logprobs=third[:1]),
        Rollout(second, [4], advantage=float("nan")),
    ]


def manifest(**changes) -> Manifest:
    return Manifest(**({"cause": "nonfinite", "message": "m"} | numbers(**changes)))


def numbers(**changes):
    return {"step": 7, "rank": 0, "ranks": 1, "seed": 0} | changes


@pytest.fixture
def run(tmp_path):
    """Return a run's folder with 30 metrics rows."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("run: {}\n...\n")
    (folder / "versions.json").write_text("{}")
    lines = [json.dumps({"phase": "train", "step": i}) for i in range(1, 31)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_rollouts_come_back_bit_for_bit_with_their_pictures(run):
    path, written = run / "autopsy" / "x", rollouts()
    write_bundle(path, Content(run, manifest(), groups_of(written)))
    read = read_rollouts(path, Renders(), on_policy=False)
    assert [r.token_ids for r in read] == [[1, 2], [3], [4]]
    assert read[0].prompt is read[1].prompt
    assert read[0].prompt.sample == written[0].prompt.sample
    assert len(read[0].prompt.sample.images) == 2
    assert read[0].advantage == 0.1
    assert read[0].old_logprobs.tobytes() == written[0].old_logprobs.tobytes()
    assert read[0].reward == written[0].reward
    assert np.isnan(read[2].advantage)
    names = sorted(p.name for p in (path / "pictures").iterdir())
    assert names == ["000-0.png", "000-1.png"]
    on_policy = read_rollouts(path, Renders(), on_policy=True)
    assert [r.old_logprobs for r in on_policy] == [None] * 3


def test_a_person_finds_what_happened_and_the_command(run):
    path = run / "autopsy" / "x"
    said = manifest(mini_batch=2, mini_batches=4, records=["a", "b"], ranks=2, rank=1)
    write_bundle(path, Content(run, said, groups_of(rollouts()), {"finite": False}))
    text = (path / "README.txt").read_text()
    assert text.startswith("nonfinite at step 7, mini-batch 2 of 4, rank 1 of 2 (its own share")
    assert "records: a, b" in text
    assert f"    sapo-vl replay {path}\n" in text
    listed = {
        line.split()[0] for line in text.splitlines() if re.match(r"^[a-z.]{5,15} {2,}", line)
    }
    assert listed == {p.name for p in path.iterdir()} - {"README.txt", "manifest.json"}
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(11, 31))
    assert "test_a_person_finds" in (path / "stacks.txt").read_text()
    responses = json.loads((path / "rollouts.json").read_text())[1]["responses"]
    assert responses[0]["advantage"] == "nan"
    assert bundle.read_manifest(path) == said


def test_what_cannot_be_written_is_named_and_the_rest_is_there(run, monkeypatch):
    (run / "versions.json").unlink()
    (run / "metrics.jsonl").write_text("{damaged\n{}\n")
    monkeypatch.setattr(bundle, "LARGEST_BATCH", 100)
    path = run / "autopsy" / "x"
    write_bundle(path, Content(run, manifest(), groups_of(rollouts())))
    missing = bundle.read_manifest(path).missing
    assert [line.split(":")[0] for line in missing] == [
        "versions.json",
        "metrics.jsonl",
        "batch.npz",
    ]
    text = (path / "README.txt").read_text()
    assert "no batch in this folder" in text
    assert "left out: batch.npz: 0 MB are above 0 MB" in text
    assert not (path / "pictures").exists()
    with pytest.raises(DataError, match=r"x holds no rollouts: batch\.npz: 0 MB are above"):
        read_rollouts(path, Renders(), on_policy=False)


def test_weights_move_into_the_bundle(run):
    weights = run / "autopsy" / ".weights" / "model"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    path = run / "autopsy" / "x"
    write_bundle(path, Content(run, manifest()), weights)
    assert (path / "model" / "config.json").exists()
    assert not weights.exists()
    assert bundle.read_manifest(path).weights == "model"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "not kept; replay takes those that the run started from"),
        ({"checkpoint": "step_000006", "mini_batch": 1}, "its weights are those of the batch"),
        (
            {"checkpoint": "step_000004", "steps_since": 2, "mini_batch": 3},
            "its weights are 2 steps and 2 mini-batches older than the batch",
        ),
    ],
)
def test_the_age_of_the_weights_is_said(run, changes, words):
    path = run / "autopsy" / "x"
    write_bundle(path, Content(run, manifest(**changes)))
    assert words in (path / "README.txt").read_text()


def test_names_tell_step_cause_and_rank_and_never_collide(tmp_path):
    name = Name(7, "stall")
    assert name.free(tmp_path).name == "step_000007-stall"
    name.free(tmp_path).mkdir()
    name.free(tmp_path).mkdir()
    assert name.free(tmp_path).name == "step_000007-stall-3"
    assert Name(7, "stall", "-rank1").free(tmp_path).name == "step_000007-stall-rank1"
    assert Name(7, "stall", "-rank1").path(tmp_path, 2).name == "step_000007-stall-2-rank1"


def test_fillers_are_left_out_and_groups_keep_their_order():
    first, second, third = rollouts()
    filler = replace(third, is_filler=True)
    groups = groups_of([third, filler, first, second])
    assert [[r.token_ids for r in g.rollouts] for g in groups] == [[[4]], [[1, 2], [3]]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not an autopsy's folder: manifest.json"),
        ("{", "manifest.json is damaged"),
        ('{"cause": "x"}', "manifest.json is damaged"),
        ('{"colour": 1}', "manifest.json is damaged"),
        (
            json.dumps({"cause": "x", "message": "m"} | numbers()),
            "manifest.json is damaged: checkpoint, denominator",
        ),
    ],
)
def test_a_damaged_manifest_is_the_users_error(tmp_path, text, words):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=words):
        bundle.read_manifest(tmp_path)


def test_a_damaged_batch_is_the_users_error(run):
    path = run / "autopsy" / "x"
    write_bundle(path, Content(run, manifest(), groups_of(rollouts())))
    (path / "pictures" / "000-1.png").unlink()
    with pytest.raises(DataError, match=r"batch\.npz is damaged"):
        read_rollouts(path, Renders(), on_policy=False)
    (path / "batch.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"batch\.npz is damaged"):
        read_rollouts(path, Renders(), on_policy=False)
