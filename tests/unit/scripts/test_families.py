"""scripts/families.sh: which families pass, with runs and engines faked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from bench import families


@pytest.fixture
def faked(monkeypatch, capsys):
    """Return a function (arguments, exit code, gap) -> (exit code, printed)."""

    def run(arguments, code=0, gap=0.01):
        def process(command, **_):
            if "train" in command:
                folder = next(word for word in command if word.startswith("run.dir="))[8:]
                rows = [{"phase": "eval"}, {"phase": "train", "mismatch/mean_abs": 0.0025}]
                if code == 0:
                    (families.Path(folder) / "final").mkdir(parents=True)
                    text = "\n".join(map(json.dumps, [*rows, rows[0]]))
                    (families.Path(folder) / "metrics.jsonl").write_text(text)
                return subprocess.CompletedProcess(command, code, "", "")
            found = [{"dtype": "bfloat16", "start": [gap, 0.5]}] * (len(command) - 2)
            return subprocess.CompletedProcess(command, 0, f"noise\n{json.dumps(found)}\n", "")

        monkeypatch.setattr(families.subprocess, "run", process)
        monkeypatch.setattr(sys, "argv", ["families", *arguments])
        return families.main(), capsys.readouterr().out

    return run


def test_a_family_that_trains_and_agrees_passes(faked):
    code, text = faked(["qwen3_5", "rollout.steps=4"])
    assert code == 0
    (line,) = (line for line in text.splitlines() if line.startswith("qwen3_5"))
    assert line.split()[:5] == ["qwen3_5", "bfloat16", "2.5e-03", "1.0e-02", "5.0e-01"]
    assert line.endswith("ok")


def test_all_families_are_run_by_default(faked):
    _, text = faked([])
    assert [name for name in families.FAMILIES if f"\n{name} " in text] == list(families.FAMILIES)


@pytest.mark.parametrize(
    ("faults", "told"), [({"code": 3}, "exit code 3"), ({"gap": 0.031}, "DIFFERS")]
)
def test_a_failed_run_and_a_difference_are_told(faked, faults, told):
    code, text = faked(["qwen3_5"], **faults)
    assert code == 1
    assert told in text
