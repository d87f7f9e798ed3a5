"""Whole runs by the command line: what they leave, and that no kill changes a single bit."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers import DUAL_CLIP, ROOT, cli, environment
from killed_runs import SABOTEUR, SMOKE, digest, exact, finished, rows, sabotaged

from sapo_vl.runs.record import saved_config
from sapo_vl.training.export import write_model

pytestmark = pytest.mark.slow

MATHVISION = ROOT.parent / "shared" / "raw" / "mathvision"
STEPS, PROMPTS, GROUP, PROBLEMS, SAMPLES = 4, 8, 4, 12, 2
OVERRIDES = (
    "data.synthetic_train=120",
    "data.synthetic_test=24",
    "sft.steps=6",
    f"rollout.steps={STEPS}",
    f"rollout.prompts={PROMPTS}",
    f"rollout.group_size={GROUP}",
    f"evaluation.problems={PROBLEMS}",
    f"evaluation.samples={SAMPLES}",
    "checkpoint.every=1",
    "checkpoint.sft_every=2",
    "generator.max_model_len=512",
    f"rewards=[{{fn: '{SABOTEUR}:score'}}]",
)


def train(run: Path, *overrides: str, resume: bool = False, strike: str = ""):
    """Run or resume `sapo-vl train`; `strike` is the saboteur's moment."""
    options = ["--resume"] if resume else ["--config", SMOKE]
    keys = [*(() if resume else OVERRIDES), *overrides, f"run.dir={run}"]
    return sabotaged("train", *options, *keys, strike=strike)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """Return a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("reference") / "run"
    done = train(run)
    finished(done)
    (run.parent / "stdout").write_text(done.stdout)
    return run


def test_the_summary_holds_both_evaluations(reference):
    summary = json.loads((reference / "summary.json").read_text())
    for name in ("before", "after"):
        figures = summary[name]
        lines = (reference / "eval" / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        sampled = [r["correct"] for r in records if r["mode"] == "sampled"]
        greedy = [r["correct"] for r in records if r["mode"] == "greedy"]
        assert (len(sampled), len(greedy)) == (PROBLEMS * SAMPLES, PROBLEMS)
        assert figures[f"avg@{SAMPLES}"] == pytest.approx(sum(sampled) / len(sampled))
        assert figures["greedy"] == pytest.approx(sum(greedy) / len(greedy))
        low, high = figures["ci95"]
        assert 0 <= low <= figures[f"avg@{SAMPLES}"] <= high <= 1
        assert low < high
        assert figures["problems"] == PROBLEMS
    seconds = summary["seconds"]
    assert {"warmup", "start", "sapo", "evaluation"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())


def test_the_final_table_is_printed(reference):
    text = (reference.parent / "stdout").read_text()
    summary = json.loads((reference / "summary.json").read_text())
    for name in ("before", "after"):
        share = f"{100 * summary[name][f'avg@{SAMPLES}']:.1f} %"
        assert any(name in line and share in line for line in text.splitlines()), share


def test_metrics_hold_a_row_for_each_step(reference):
    assert [row["step"] for row in rows(reference, "sft")] == [1, 2, 3, 4, 5, 6]
    trained = rows(reference, "train")
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    assert [(row["name"], row["step"]) for row in rows(reference, "eval")] == [
        ("before", 0),
        ("after", STEPS),
    ]
    for row in trained:
        assert row["mismatch/mean_abs"] <= 1e-5
        assert row["mismatch/max_abs"] <= 1e-3
        assert 0 < row["reward/mean"] < 1
        assert row["gate/active"] > 0  # the last of four mini-batches has moved ratios
        first, *_, last = row["mini_batches"]["gate/mean"]
        assert first == pytest.approx(1, abs=1e-6)
        assert last < 1
        assert len(row["mini_batches"]["ratio/kl"]) == 4
        assert row["tokens_per_s/generate"] > 0
        assert {"seconds/rollout", "seconds/update", "seconds/sync"} <= set(row)
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))


def test_rollouts_hold_every_response(reference):
    files = sorted((reference / "rollouts").glob("*.parquet"))
    assert [file.name for file in files] == [f"step_{i:06d}.parquet" for i in (1, 2, 3, 4)]
    for file, row in zip(files, rows(reference, "train"), strict=True):
        table = pq.read_table(file).to_pylist()
        assert len(table) == PROMPTS * GROUP
        assert sum(r["reward"] for r in table) / len(table) == pytest.approx(row["reward/mean"])
        assert len({r["id"] for r in table}) == PROMPTS
        for r in table:
            assert len(r["token_ids"]) == len(r["generator_logprobs"])
            if r["old_logprobs"] is not None:
                pairs = zip(r["old_logprobs"], r["generator_logprobs"], strict=True)
                assert max(abs(a - b) for a, b in pairs) < 1e-3
    responses = [r["response"] for r in pq.read_table(files[0]).to_pylist()]
    assert len(set(responses)) > PROMPTS  # G different ones, not one answer G times


def test_curves_are_a_picture(reference):
    data = (reference / "curves.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 400
    assert height > 200


def test_the_final_model_loads_and_has_moved(reference):
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(reference / "final")
    assert AutoProcessor.from_pretrained(reference / "final").tokenizer.eos_token == "<|im_end|>"
    start = load_file(reference / "warmup" / "final" / "model.safetensors")
    moved = {n: float((p - start[n]).abs().max()) for n, p in model.named_parameters()}
    assert all(value > 0 for value in moved.values())
    assert max(moved.values()) < 0.05


def test_the_config_is_kept_and_only_the_newest_checkpoints(reference):
    from sapo_vl.config import load

    config = load(reference / "config.yaml", [])
    assert config.rollout.prompts == PROMPTS
    assert config.run.dir == reference
    assert sorted(p.name for p in (reference / "checkpoints").iterdir()) == [
        "step_000003",
        "step_000004",
    ]
    versions = json.loads((reference / "versions.json").read_text())
    assert {"torch", "transformers", "deepspeed"} <= set(versions)


def test_a_finished_run_goes_on(reference, tmp_path):
    """Its model and figures are those of the last step, and the old ones are kept beside them.

    That a finished run without more steps resumes to itself is in tests/unit/training/test_report.
    """
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    before = digest(run / "final" / "model.safetensors")
    finished(train(run, f"rollout.steps={STEPS + 1}", resume=True))
    assert digest(run / "final" / "model.safetensors") != before
    assert digest(run / f"final-step_{STEPS:06d}" / "model.safetensors") == before
    assert rows(run, "sft") == rows(reference, "sft")
    assert rows(run, "train")[:STEPS] == rows(reference, "train")
    evaluated = [(row["name"], row["step"]) for row in rows(run, "eval")]
    assert evaluated == [("before", 0), ("after", STEPS), ("after", STEPS + 1)]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["before"]["step"], summary["after"]["step"]) == (0, STEPS + 1)


STRIKES = [
    # moment, exit code, where the next start must continue
    ("update:4:SIGKILL", -9, "warm-up: continuing at step 2 of 6"),  # in the warm-up's fourth step
    ("saving:4:SIGKILL", -9, "continuing at step 1 of 4"),  # step 2's checkpoint is half written
    ("decode:3:SIGINT", 130, "continuing at step 1 of 4"),  # in step 2's sampling
    ("update:3:SIGTERM", 143, "continuing at step 1 of 4"),  # in step 2's third mini-batch
    ("update:4:SIGKILL", -9, "continuing at step 2 of 4"),  # in step 3's third mini-batch
    ("saved:1:SIGKILL", -9, "continuing at step 3 of 4"),  # right after step 3's checkpoint
    ("export:1:SIGKILL", -9, "continuing at step 4 of 4"),  # trained and evaluated, not written
]
"""What `scripts/kills.sh` does to one run. A start takes 25 s, so that CI strikes twice only."""

TWO_STRIKES = [
    ("update:4:SIGKILL", -9, "warm-up: continuing at step 2 of 6"),
    # in step 2's third mini-batch, after the warm-up's four updates and step 1's
    ("update:11:SIGTERM", 143, "continuing at step 1 of 4"),
]


def test_kills_do_not_change_a_bit(reference, tmp_path):
    run = tmp_path / "run"
    expected = ""
    strikes = STRIKES if os.environ.get("SAPO_TEST_KILLS") == "all" else TWO_STRIKES
    for number, (strike, code, following) in enumerate(strikes):
        done = train(run, resume=number > 0, strike=strike)
        assert done.returncode == code, (strike, done.stdout[-3000:], done.stderr[-6000:])
        assert expected in done.stdout, (strike, done.stdout[-3000:])
        assert not (run / "final").exists()
        expected = following
        if strike == "saving:4:SIGKILL":
            torn = [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")]
            assert torn == [".step_000002.partial"], "the test's own premise"
        if code == 143:
            assert (run / "checkpoints" / "step_000001+3").is_dir()
            assert "--resume" in done.stdout
        resumed = {row["step"]: exact(row) for row in rows(run, "train")}
        for row in rows(reference, "train"):  # says which kill went wrong
            if row["step"] in resumed:
                assert resumed[row["step"]] == exact(row), (strike, row["step"])
    if strikes is TWO_STRIKES:  # a checkpoint that a kill left half written
        (run / "checkpoints" / ".step_000002.partial").mkdir()
    done = train(run, resume=True)
    finished(done)
    assert expected in done.stdout
    for folder in (Path("warmup") / "final", Path("final")):
        for file in sorted((reference / folder).iterdir()):
            assert digest(run / folder / file.name) == digest(file), file
    for phase in ("sft", "train", "eval"):
        assert [exact(r) for r in rows(run, phase)] == [exact(r) for r in rows(reference, phase)]
    both = (json.loads((folder / "summary.json").read_text()) for folder in (run, reference))
    resumed, whole = ({k: v for k, v in each.items() if k != "seconds"} for each in both)
    assert resumed == whole
    names = [p.name for p in (run / "checkpoints").iterdir()]
    assert sorted(names) == ["step_000003", "step_000004"]


def test_export_gives_the_final_model(reference, tmp_path):
    out = tmp_path / "out"
    done = cli("export", reference, "--out", out)
    finished(done)
    for file in sorted((reference / "final").iterdir()):
        assert digest(out / file.name) == digest(file), file.name
    newest = reference / "checkpoints" / f"step_{STEPS:06d}"
    write_model(saved_config(reference), newest, tmp_path / "best")  # as RUN/best is written
    for file in sorted((reference / "final").iterdir()):
        assert digest(tmp_path / "best" / file.name) == digest(file), file.name
    older = tmp_path / "older"
    finished(cli("export", reference, "--out", older, "--checkpoint", "step_000003"))
    assert digest(older / "model.safetensors") != digest(out / "model.safetensors")


def test_evaluate_gives_the_runs_own_figures(reference, tmp_path):
    """The same problems, seeds and code as in training: the very same responses."""
    out = tmp_path / "out"
    done = cli(
        "evaluate",
        "--model",
        reference / "final",
        "--out",
        out,
        f"evaluation.problems={PROBLEMS}",
        f"evaluation.samples={SAMPLES}",
        f"rewards=[{{fn: '{SABOTEUR}:score'}}]",
    )
    finished(done)
    after = json.loads((reference / "summary.json").read_text())["after"]
    figures = json.loads((out / "summary.json").read_text())
    shared = figures.keys() & after.keys()
    assert {f"avg@{SAMPLES}", "ci95", "greedy", "tasks", "no_verdict"} <= shared
    assert {key: figures[key] for key in shared} == {key: after[key] for key in shared}
    assert (out / "responses.jsonl").read_text() == (reference / "eval" / "after.jsonl").read_text()
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed[f"avg@{SAMPLES}"] == after[f"avg@{SAMPLES}"]


def test_the_warm_up_alone_is_the_runs_own(reference, tmp_path):
    run = tmp_path / "run"
    done = cli("sft", "--config", SMOKE, *OVERRIDES, f"run.dir={run}")
    finished(done)
    model = Path("warmup") / "final" / "model.safetensors"
    assert digest(run / model) == digest(reference / model)
    assert rows(run, "train") == []


def test_a_full_disk_is_one_clear_line(tmp_path):
    """A file system of 22 MiB is refused at the start; one that fills up later ends the run."""
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=$size none {small} && "
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    tried = subprocess.run([*inside, f"size=1m; {mount} true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this machine does not let a user mount a small file system")
    arguments = [
        *OVERRIDES,
        "checkpoint.sft_every=500",
        "generator.backend=transformers",
        "run.tensorboard=false",
        f"run.dir={small / 'run'}",
    ]
    command = [sys.executable, "-m", "sapo_vl.cli", "train", "--config", str(SMOKE), *arguments]
    fill = (
        f"(until [ -e {small}/run/warmup/final ]; do sleep 0.1; done; cat /dev/zero >{small}/x) &"
    )

    def train(size: str) -> subprocess.CompletedProcess[str]:
        script = f'size={size}; {mount} {{ {fill} "$@"; code=$?; ls -A {small}/run/checkpoints; }};'
        return subprocess.run(
            [*inside, f"{script} kill $!; exit $code", "sh", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=environment(),
        )

    done = train("22m")
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-4000:]
    assert "checkpoint.keep=2" in done.stderr
    assert "22.0 MiB are free" in done.stderr
    done = train("100m")
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-4000:]
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("sapo-vl")]
    assert "no space left" in line  # of the checkpoint, or of a smaller file before it
    assert "--resume" in line
    assert "Traceback" not in done.stderr
    assert ".partial" not in done.stdout  # what was half written has given its space back


ENGINE = '''
"""Samples with transformers and logs every call."""

from pathlib import Path

from sapo_vl.generator.hf_generate import HFGenerator


class Engine:
    def __init__(self, config, assets, *, seed):
        self.inner = HFGenerator(config, assets)
        self.log = Path(__file__).with_name("engine.log").open("w")
        self.write("start", seed)

    def write(self, *words):
        print(*words, file=self.log, flush=True)

    def generate(self, requests):
        self.write("generate", len(requests), *sorted({r.params.n for r in requests}))
        return self.inner.generate(requests)

    def update_weights(self, weights, version=0):
        weights = dict(weights)
        self.write("update_weights", len(weights))
        self.inner.update_weights(weights.items(), version)

    def sleep(self):
        self.write("sleep")

    def close(self):
        self.write("close")
        self.inner.close()
'''


def test_an_objective_and_an_engine_of_the_users_own(tmp_path):
    run, engine = tmp_path / "run", tmp_path / "my_engine.py"
    engine.write_text(ENGINE)
    keys = (
        *OVERRIDES,
        "run.seed=3",
        "sft.steps=2",
        "evaluation.problems=4",
        f"objective={DUAL_CLIP}",
        "loss.delta=2.5",
        "loss.high=0.3",
        "rollout.steps=2",
        f"generator.backend={engine}:Engine",
        f"run.dir={run}",
    )
    done = cli("train", "--config", SMOKE, *keys, timeout=400)
    finished(done)
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["objective"] == DUAL_CLIP
    assert resolved["loss"] == {"low": 0.2, "high": 0.3, "delta": 2.5}
    assert "sapo" not in resolved
    trained = rows(run, "train")
    assert [row["step"] for row in trained] == [1, 2]
    for row in trained:
        assert row["grad_norm"] > 0
        assert 0 <= row["gate/mean"] <= 1
        assert not [name for name in row if name.startswith("gate/gap")]  # SAPO's theory alone
    assert "gate was never active" not in done.stdout  # a clip is no gate
    calls = (tmp_path / "engine.log").read_text().splitlines()
    assert calls[0] == "start 3"
    step = calls.index(f"generate {PROMPTS} {GROUP}")  # a step's one call
    assert "sleep" in calls[step:]
    assert any(call.startswith("update_weights") for call in calls[step:])
    assert calls.count(f"generate {PROMPTS} {GROUP}") == 2
    assert calls[-1] == "close"


@pytest.mark.skipif(not MATHVISION.is_dir(), reason="no MathVision sample beside the repository")
def test_real_pictures_take_the_same_way(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    done = cli("prepare", "mathvision", "--source", MATHVISION, "--out", data)
    finished(done)
    report = json.loads((data / "report.json").read_text())
    assert report["kept"]["train"] > 8
    keys = ("rollout.steps=1", "sft.steps=2", "evaluation.problems=4", "evaluation.samples=1")
    keys += ("evaluation.greedy=false", "rollout.prompts=8", f"data.path={data}", f"run.dir={run}")
    done = cli("train", "--config", SMOKE, *keys, timeout=500)
    finished(done)
    trained = rows(run, "train")
    assert [row["step"] for row in trained] == [1]
    for row in trained:
        assert row["mismatch/mean_abs"] <= 1e-5, "the parity check saw no pictures"
        assert row["mismatch/max_abs_image"] <= 1e-3
        for key, value in row.items():
            if not isinstance(value, str | dict | None):
                assert math.isfinite(value), key
    table = pq.read_table(run / "rollouts" / "step_000001.parquet").to_pylist()
    assert any(r["images"] for r in table)
