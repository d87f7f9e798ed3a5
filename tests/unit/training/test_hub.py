"""A finished run on the hub: what is pushed and with which card, and what a failure costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from stand_in_hub import TOKEN, StandInHub

from sapo_vl.cli.parser import main as command_line
from sapo_vl.config import load
from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.runs.files import write_json
from sapo_vl.runs.folder import Run
from sapo_vl.training import hub
from sapo_vl.training.model_card import model_card

REPO = "me/geometry"
FIGURES = {
    "avg@8": 0.25,
    "ci95": [0.2, 0.3],
    "greedy": 0.5,
    "problems": 480,
    "settings": {"samples": 8, "temperature": 1.0},
}


@pytest.fixture
def server(monkeypatch):
    """Return a hub that the client of this process talks to."""
    made = StandInHub()
    monkeypatch.setattr(constants, "ENDPOINT", made.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path) -> Run:
    """Return a finished run with a final and a best model."""
    config = load(
        None,
        [
            f"run.dir={tmp_path / 'my_run'}",
            f"run.hub_repo={REPO}",
            "model.path=Qwen/Qwen3-VL-4B-Instruct",
            "data.path=/secret/place/geometry3k",
            "learner.lr=2e-6",
            "sapo.tau_neg=1.2",
            "judge={url: 'http://10.1.2.3:8000/v1', model: m}",
            "evaluation.every=5",
            "checkpoint.best=avg",
        ],
    )
    made = Run(config, resume=False)
    made.close()
    finish(made, 20, best=10)
    return made


def finish(run: Run, step: int, best: int) -> None:
    for name, at in (("final", step), ("best", best)):
        folder = run.dir / name
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(f"weights {at}")
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text("---\nlicense: apache-2.0\nfoo: bar\n---\nThe base.")
        write_json(run.dir / f"{name}.json", {"step": at})
    chosen = {"metric": "avg", "step": best, "value": 0.4, "evaluations": 5, "later": 2}
    after = FIGURES | {"avg@8": 0.375}
    write_json(run.dir / "summary.json", {"before": FIGURES, "after": after, "best": chosen})


def branch(server: StandInHub, name: str) -> dict[str, bytes]:
    return server.repos[REPO][name]


def test_final_and_best_are_pushed_with_their_cards(server, run, capsys):
    hub.push_result(run)
    assert server.private[REPO] is True
    assert sorted(server.repos[REPO]) == ["best", "main"]
    main = branch(server, "main")
    assert sorted(main) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert main["model.safetensors"] == b"weights 20"
    assert branch(server, "best")["model.safetensors"] == b"weights 10"
    assert main["README.md"].decode() == model_card(run.config, run.dir / "final")
    assert b"after 10 steps" in branch(server, "best")["README.md"]
    assert (run.dir / "final" / "README.md").read_text().endswith("The base.")
    printed = capsys.readouterr().out
    assert f"pushed final and best to {server.address}/{REPO}" in printed
    assert TOKEN not in printed

    asked = len(server.requests)
    hub.push_result(run)  # of a run that is resumed at its end
    assert len(server.requests) == asked
    (run.dir / "final" / "model-00001-of-00002.safetensors").write_text("x")
    hub.main(run.dir)
    (run.dir / "final" / "model-00001-of-00002.safetensors").unlink()
    finish(run, 30, best=10)
    uploads = server.uploads
    hub.push_result(run)
    main = branch(server, "main")
    assert sorted(main) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert main["model.safetensors"] == b"weights 30"
    assert server.uploads == uploads + 1  # the best weights were there


@pytest.mark.parametrize("step", ["create", "preupload", "lfs", "commit", "branch"])
def test_a_failed_push_costs_nothing_and_can_be_repeated(server, run, capsys, step, monkeypatch):
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between its retries
    server.fail = step
    hub.push_result(run)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning")]
    assert f"pushing to {REPO} failed" in line
    assert f"sapo-vl push {run.dir} --repo {REPO}" in line
    assert not (run.dir / "hub.json").exists()
    with pytest.raises(SetupError, match="failed"):
        hub.main(run.dir)
    server.fail = None
    command_line(["push", str(run.dir)])
    assert branch(server, "best")["model.safetensors"] == b"weights 10"
    assert json.loads((run.dir / "hub.json").read_text())["steps"] == {"final": 20, "best": 10}


def test_a_wrong_token_and_a_hub_out_of_reach_are_one_line(server, run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SystemExit) as exit_:
        command_line(["push", str(run.dir), "--repo", REPO])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "401" in line
    assert "hf_wrong" not in line
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match="pushing to me/geometry failed"):
        hub.main(run.dir)


def test_what_cannot_be_pushed_is_refused_before_the_run(server, run, monkeypatch):
    hub.check_hub(run.config)
    monkeypatch.setattr(hub, "_push", None)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run.dir / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"run\.hub_repo=me/geometry needs a token"):
        hub.check_hub(run.config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        hub.check_hub(run.config)
    hub.check_hub(load(None, []))
    with pytest.raises(ConfigError, match="hub_repo"):
        load(None, ["run.hub_repo=geometry"])


def test_a_run_without_a_model_or_a_repository_is_refused(server, tmp_path):
    config = load(None, [f"run.dir={tmp_path / 'run'}"])
    Run(config, resume=False).close()
    with pytest.raises(ConfigError, match="--repo OWNER/NAME"):
        hub.main(tmp_path / "run")
    with pytest.raises(ConfigError, match="no final model"):
        hub.main(tmp_path / "run", REPO)
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        hub.main(tmp_path / "nothing", REPO)


def parts(card: str) -> tuple[dict, str]:
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_tells_what_the_run_was(run):
    metadata, text = parts(model_card(run.config, run.dir / "final"))
    assert metadata["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert metadata["license"] == "apache-2.0"
    assert "foo" not in metadata
    assert "after 20 steps" in text
    assert "| before | 25.0 % | 20.0 to 30.0 | 50.0 % |" in text
    assert "| after | 37.5 % | 20.0 to 30.0 | 50.0 % |" in text
    assert "chosen for the highest" not in text
    keys = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert keys["learner.lr"] == 2e-6
    assert keys["sapo.tau_neg"] == 1.2
    assert "rollout.group_size" not in keys  # a default
    assert "torch" in text.split("## Versions")[1]
    best = model_card(run.config, run.dir / "best")
    assert "highest avg (40.0 %) of 5 evaluations" in best


def test_the_card_tells_nothing_of_the_machine(run):
    card = model_card(run.config, run.dir / "final")
    assert "geometry3k" in card
    for secret in ("/secret", str(run.dir.parent), "10.1.2.3", TOKEN):
        assert secret not in card


def test_names_in_a_card_are_no_markup(run):
    run.config.data.path = Path("/data/<script>`x`|[a](http://b)")
    card = model_card(run.config, run.dir / "final")
    assert "<script>" not in card.replace("\\<script\\>", "")
    assert "[a](" not in card.replace("\\[a\\]", "")
