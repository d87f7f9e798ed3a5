"""All checks in order, each by itself: one that crashes is a finding, and the others go on."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sapo_vl.algorithm import objectives
from sapo_vl.config import Config
from sapo_vl.errors import RunError, SetupError, UserError, printable
from sapo_vl.runs.progress import table
from sapo_vl.training.doctor import environment, model, place, policy, records, verifiers
from sapo_vl.training.doctor.findings import (
    Diagnosis,
    Finding,
    State,
    count_by_state,
    skipped,
    wrong,
)
from sapo_vl.training.doctor.subject import Subject


class Check(NamedTuple):
    """One check of the table below."""

    name: str
    run: Callable[[Subject], Iterable[Finding]]
    needs: tuple[str, ...] = ()  # checks that must have passed
    needs_weights: bool = False  # left out by --quick


CHECKS = (
    Check("packages", environment.check_packages),
    Check("devices", environment.check_devices),
    Check("settings", environment.check_settings),
    Check("run folder", place.check_run_folder),
    Check("ports", place.check_ports),
    Check("model folder", model.check_folder),
    Check("chat template", model.check_template, ("model folder",)),
    Check("end of turn", model.check_end_tokens, ("chat template",)),
    Check("memory", environment.check_memory, ("model folder",)),
    Check("disk", place.check_disk, ("model folder", "run folder")),
    Check("data shards", records.check_shards),
    Check("pictures", records.check_pictures, ("data shards",)),
    Check("prompt lengths", records.check_lengths, ("data shards", "chat template")),
    Check("prompts", model.check_prompts, ("prompt lengths",)),
    Check("judge", verifiers.check_judge),
    Check("verifiers", verifiers.check_verifiers, ("prompt lengths", "judge")),
    Check("servers", place.check_servers, ("model folder",)),
    Check(
        "engine start",
        policy.check_start,
        ("devices", "settings", "memory", "prompts", "servers"),
        needs_weights=True,
    ),
    Check("engine and learner", policy.check_parity, ("engine start",), needs_weights=True),
    Check("update", policy.check_update, ("engine and learner",), needs_weights=True),
)
"""In the order in which they are made: the cheap ones first."""


def doctor(config: Config, config_file: Path | None, *, quick: bool) -> None:
    """Make all checks and print their table.

    Args:
        config: the run's.
        config_file: may name the hardware that it is written for, in a comment.
        quick: leave out what loads the model's weights.

    Raises:
        SetupError: something is wrong. The table is printed before.
    """
    start = time.perf_counter()
    config = objectives.resolve(config)
    with tempfile.TemporaryDirectory(prefix="sapo-vl-doctor-") as scratch:
        subject = Subject(config, Path(scratch), config_file=config_file)
        try:
            diagnoses = examine(subject, [c for c in CHECKS if not (quick and c.needs_weights)])
        finally:
            subject.close()
    show(diagnoses, time.perf_counter() - start)
    faulty = dict.fromkeys(d.check for d in diagnoses if d.finding.state is State.WRONG)
    if faulty:
        raise SetupError(f"wrong: {', '.join(faulty)}; the table says what to do")


def examine(subject: Subject, checks: Sequence[Check] = CHECKS) -> list[Diagnosis]:
    """Make the checks in order; return what they found.

    A check that needs one which found something wrong, or was not made, is not made either. A line
    about each goes to stderr, which is what remains if the process is killed for its memory.
    """
    diagnoses: list[Diagnosis] = []
    failed = set[str]()
    for check in checks:
        start = time.perf_counter()
        missing = [name for name in check.needs if name in failed]
        findings = [skipped(f"needs {missing[0]}")] if missing else _findings(check, subject)
        states = [finding.state for finding in findings]
        if State.WRONG in states or State.SKIPPED in states:
            failed.add(check.name)
        diagnoses += [Diagnosis(check.name, finding) for finding in findings]
        told = ", ".join(dict.fromkeys(states))
        print(
            f"{check.name}: {told} ({time.perf_counter() - start:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
    return diagnoses


def _findings(check: Check, subject: Subject) -> list[Finding]:
    """Return a check's findings. This is the boundary at which its errors end."""
    findings: list[Finding] = []
    try:
        findings.extend(check.run(subject))
    except (UserError, RunError) as error:
        findings.append(wrong(printable(error)))
    except Exception as error:  # the one boundary: recorded, and the other checks go on
        reason = printable(next(iter(str(error).strip().splitlines()), ""))
        findings.append(
            wrong(
                f"the check crashed: {type(error).__name__}: {reason}",
                f"the traceback is in {_keep_traceback(check.name)}",
            )
        )
    return findings


def _keep_traceback(name: str) -> str:
    """Write the current exception's traceback to a file; return its path."""
    prefix = f"sapo-vl-doctor-{name.replace(' ', '-')}-"
    with tempfile.NamedTemporaryFile(
        "w", prefix=prefix, suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(traceback.format_exc())
    return file.name


def show(diagnoses: Sequence[Diagnosis], seconds: float) -> None:
    """Print the table and the count of each state."""
    rows = [[d.check, d.finding.state, d.finding.found, d.finding.cure] for d in diagnoses]
    table("doctor", ["check", "state", "found", "what to do"], rows)
    counts = ", ".join(f"{n} {state}" for state, n in count_by_state(diagnoses).items() if n)
    print(f"{counts}, in {seconds:.0f} s")
