"""Python, the packages' versions, GPU and driver, the settings that belong together, memory."""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sapo_vl.algorithm import objectives
from sapo_vl.errors import ConfigError
from sapo_vl.evaluation.benchmark import chosen_sets
from sapo_vl.generator.base import check_backend, check_tensor_parallel
from sapo_vl.learner.deepspeed_config import deepspeed_settings
from sapo_vl.system import machine
from sapo_vl.training.best import check_metric
from sapo_vl.training.doctor.findings import Finding, doubtful, fine, wrong
from sapo_vl.training.doctor.subject import Subject
from sapo_vl.training.hub import check_hub
from sapo_vl.training.plan import hardware
from sapo_vl.training.plan.fit import Plan, changes_that_fit
from sapo_vl.training.plan.hardware import GIB
from sapo_vl.training.plan.limits import in_words, memory_shortage
from sapo_vl.training.setup import check_delta_kernels

CHECKOUT = Path(__file__).resolve().parents[3]

DISTRIBUTION = "sapo-vl"

SET_UP = "run scripts/setup.sh, which installs the tested versions"

BUSY_SHARE = 0.1
"""Of a GPU's memory that other processes may hold before it is worth a word."""


def check_packages(subject: Subject) -> Iterator[Finding]:
    """Compare Python and the installed packages with what is required and tested."""
    python, requirements, tested = _required("gpu" if machine.gpu_count() else "cpu")
    version = platform.python_version()
    if not SpecifierSet(python).contains(version, prereleases=True):
        yield wrong(f"Python {version} is not {python}", "make the environment with another Python")
    faults = [fault for r in requirements if (fault := _fault(r, needed=True))]
    if faults:
        yield wrong("; ".join(faults), SET_UP)
    untested = [fault for r in tested if (fault := _fault(r, needed=False))]
    if untested and not faults:
        yield doubtful(f"not the tested versions: {'; '.join(untested)}", SET_UP)
    if not faults and not untested:
        names = [r.name for r in requirements if r.name in ("torch", "transformers", "deepspeed")]
        engines = [r.name for r in requirements if r.name.startswith("vllm")]
        shown = ", ".join(f"{name} {_installed(name)}" for name in [*names, *engines])
        yield fine(f"Python {version}, {len(requirements)} packages as required: {shown}")


def _required(extra: str) -> tuple[str, list[Requirement], list[Requirement]]:
    """Return the required Python, the requirements with `extra`'s, and the tested versions.

    A checkout's pyproject.toml and constraints.txt count; an installed wheel has its metadata.
    """
    file = CHECKOUT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
        constraints = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        caps = [line for text in constraints if (line := text.partition("#")[0].strip())]
        return project["requires-python"], _applying(lines, ""), _applying(caps, "")
    lines = metadata.requires(DISTRIBUTION) or []
    python = metadata.metadata(DISTRIBUTION)["Requires-Python"]
    return python, _applying(lines, extra), []


def _applying(lines: list[str], extra: str) -> list[Requirement]:
    """Return the requirements whose markers hold here."""
    found = map(Requirement, lines)
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def _fault(requirement: Requirement, *, needed: bool) -> str:
    """Return what is wrong with a package, or nothing. One that isn't needed may be missing."""
    version = _installed(requirement.name)
    if version is None:
        return f"{requirement.name} is missing" if needed else ""
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, not {requirement.specifier}"


def _installed(name: str) -> str | None:
    return next((found.version for found in metadata.distributions(name=name)), None)


def check_devices(subject: Subject) -> Iterator[Finding]:
    """Check that PyTorch and Triton can use the GPUs, and who else uses them.

    Raises SetupError naming the driver, the build of PyTorch, the compiler or the header at fault.
    """
    named = hardware.assumed(subject.config_file)
    if not machine.gpu_count():
        cores = len(os.sched_getaffinity(0))
        if named is not None:
            count, size = named
            yield doubtful(
                f"no GPU, and the configuration is written for {count} of {size} GB",
                "run this on the machine that will train",
            )
        else:
            yield fine(f"no GPU: training on the CPU, {cores} cores")
        return
    machine.check_gpu()
    check_delta_kernels(subject.config)
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = f"GPU {index}, {torch.cuda.get_device_name(index)}"
        if total - free > BUSY_SHARE * total:
            yield doubtful(
                f"{name}: {in_words(total - free)} of {in_words(total)} are in use",
                "see nvidia-smi: end the other processes, or choose with CUDA_VISIBLE_DEVICES",
            )
        else:
            yield fine(f"{name}, {in_words(total)}, driver {machine.driver_version()}")


def check_settings(subject: Subject) -> Iterator[Finding]:
    """Check the keys that belong together but are read by different parts. Raises ConfigError."""
    config = objectives.resolve(subject.config)
    ranks = subject.ranks
    for key, value in (
        ("rollout.prompts", config.rollout.prompts),
        ("sft.batch", config.sft.batch),
    ):
        if value < ranks:
            raise ConfigError(f"{key}={value} is below the number of ranks ({ranks})")
    check_tensor_parallel(config, ranks)
    check_backend(config.generator.backend)
    deepspeed_settings(config)
    sets = chosen_sets(config)
    check_metric(config, sets)
    check_hub(config)
    options = ", ".join(f"{key} {value}" for key, value in config.objective_options.items())
    yield fine(
        f"{config.objective} ({options or 'no options'}), {config.rollout.prompts} prompts x "
        f"{config.rollout.group_size} responses on {ranks} rank(s), {len(sets)} benchmarks"
    )


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Compare the plan of the run with the devices' memory and the host's. Raises DataError."""
    made = subject.plan(subject.ranks)
    problems = [] if made.hardware.is_cpu else made.problems()
    if problems:
        fitting = changes_that_fit(made)
        cure = f"set {fitting[0].text}" if fitting else "use more or larger GPUs"
        yield wrong(f"{made.hardware.label}: {'; '.join(problems)} (estimate)", cure)
    shortage = memory_shortage(made)
    if shortage:
        yield wrong(shortage)
    if not problems and not shortage:
        yield fine(_memory_in_words(made))


def _memory_in_words(made: Plan) -> str:
    free = hardware.free_memory()
    host = f"host {made.host.peak / GIB:.1f} GiB"
    if free is not None:
        host += f", {free / GIB:.1f} free"
    if made.hardware.is_cpu:
        return f"{host} (estimate)"
    peak = made.peak
    return f"{peak.name} needs most: {peak.total / GIB:.1f} GiB of a card; {host} (estimate)"
