"""`sapo-vl push RUN`: a finished run's model on the Hugging Face Hub, and run.hub_repo.

RUN/final goes to the repository's main branch and RUN/best, if there is one, to the branch `best`,
each with a model card (model_card.py) in place of the base's own. A new repository is private; its
page has the switch. Token and address are huggingface_hub's own: `hf auth login` or HF_TOKEN, and
HF_ENDPOINT.

A push at the end of a run that fails costs nothing but itself: the reason is printed, and the
command pushes again. What was uploaded before is not sent twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapo_vl.config import Config
from sapo_vl.errors import ConfigError, SetupError, UserError, printable
from sapo_vl.runs.files import read_json, write_json
from sapo_vl.runs.folder import Run
from sapo_vl.runs.record import saved_config
from sapo_vl.system import distributed
from sapo_vl.training.model_card import model_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

STAMP = "hub.json"
"""File that says what was pushed last: repository, address and steps."""

WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
"""Files that are deleted from the repository where the folder no longer has them."""


def check_hub(config: Config) -> None:
    """Check, before a run, that its end could push. Raises ConfigError without a token."""
    repo = config.run.hub_repo
    if repo is None or distributed.rank() != 0:
        return
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"run.hub_repo={repo}: HF_HUB_OFFLINE is set, which forbids a push")
    if get_token() is None:
        raise ConfigError(
            f"run.hub_repo={repo} needs a token with write access: `hf auth login`, or HF_TOKEN"
        )


def push_result(run: Run) -> None:
    """Push a finished run to run.hub_repo, unless that was done; print why it could not be."""
    repo = run.config.run.hub_repo
    if repo is None or distributed.rank() != 0:
        return
    known = read_json(run.dir / STAMP) or {}
    if (known.get("repo"), known.get("steps")) == (repo, _steps(run.dir)):
        return
    try:
        with run.stop.interruptible():
            main(run.dir, repo)
    except UserError as error:
        distributed.print0(f"warning: {printable(error)}")


def main(run_dir: Path, repo: str | None = None) -> None:
    """Push RUN/final and RUN/best to `repo`, by default the run's run.hub_repo.

    Raises ConfigError for a run without a model or a repository, SetupError when the hub refuses or
    can't be reached.
    """
    config = saved_config(run_dir)
    repo = repo or config.run.hub_repo
    if repo is None:
        raise ConfigError(f"{run_dir} has no run.hub_repo: name one with --repo OWNER/NAME")
    steps = _steps(run_dir)
    if "final" not in steps:
        raise ConfigError(f"{run_dir} has no final model: the run has not reached its end")
    cards = {name: model_card(config, run_dir / name) for name in steps}
    from huggingface_hub import HfApi

    try:
        url = _push(HfApi(), run_dir, repo, steps, cards)
    except Exception as error:  # the client's: of HTTP, its transport, its checks, Xet
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise SetupError(
            f"pushing to {repo} failed: {reason}. Nothing of the run is lost; to push again: "
            f"sapo-vl push {run_dir} --repo {repo}"
        ) from error
    write_json(run_dir / STAMP, {"repo": repo, "url": url, "steps": steps})
    print(f"pushed {' and '.join(steps)} to {url}", flush=True)


def _steps(run_dir: Path) -> dict[str, Any]:
    """Return the step of each model folder of the run: of `final`, and of `best` if there is one.

    A folder without the file that names its step is being written.
    """
    found = {name: read_json(run_dir / f"{name}.json") for name in ("final", "best")}
    return {
        name: stamp.get("step")
        for name, stamp in found.items()
        if stamp is not None and (run_dir / name).is_dir()
    }


def _push(
    api: HfApi, run_dir: Path, repo: str, steps: Mapping[str, Any], cards: Mapping[str, str]
) -> str:
    """Upload the folders that `steps` names, with their cards; return the repository's address."""
    url = api.create_repo(repo, private=True, exist_ok=True)
    for name, step in steps.items():
        branch = "main" if name == "final" else name
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=run_dir / name,
            revision=branch,
            ignore_patterns=["README.md"],
            delete_patterns=WEIGHTS,
            commit_message=f"Weights after {step} training steps",
        )
        api.upload_file(
            path_or_fileobj=cards[name].encode(),
            path_in_repo="README.md",
            repo_id=repo,
            revision=branch,
            commit_message="Model card",
        )
    return str(url)
