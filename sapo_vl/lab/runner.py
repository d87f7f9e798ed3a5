"""`sapo-vl lab`: run grids of cells side by side and write the page.

    OUT/warmup/seed0/            data and the warmed-up model of a seed
    OUT/cells/NAME/result.json   what a cell did; a cell with one is not run again
    OUT/page.html page.md summary.json figures/

Processes are those of concurrent.futures, one a core, and new ones for each warmed-up model, since
a sampler serves one. All warm-ups come first, side by side. Killed at any point and started again,
the laboratory goes on with the cells that have no result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from sapo_vl import config as configs
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.lab import grids, worker
from sapo_vl.lab.grids import Cell
from sapo_vl.runs.files import write_json
from sapo_vl.system.machine import prepare_environment


def main(
    names: Sequence[str],
    seeds: int,
    out: Path,
    *,
    steps: int = grids.STEPS,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Run the named grids for seeds 0, 1, .. and return the page.

    `overrides` (`key=value`) hold for every cell and every warm-up. Raises ConfigError for an
    unknown grid or key, or a folder whose cells were run with other sizes.
    """
    from sapo_vl.lab import page

    for name in names:
        if name not in grids.GRIDS:
            raise ConfigError(
                f"grid {name!r} is unknown{nearest(name, grids.GRIDS)}; known: "
                + ", ".join(f"{key} ({what})" for key, (what, _) in grids.GRIDS.items())
            )
    prepare_environment()
    configs.load(worker.MAIN, list(overrides))
    _same_sizes(out, {"steps": steps, "overrides": list(overrides), "sizes": grids.SIZES})
    cells = grids.cells(list(names), list(range(seeds)))
    starts: dict[Path, list[Cell]] = {}
    for cell in _todo(cells, out):
        starts.setdefault(cell.warm_up(out), []).append(cell)
    cold = [own[0] for warm, own in starts.items() if not (warm / "warmup" / "final").exists()]
    if cold:
        _say("warm-up of " + ", ".join(cell.warm_up(out).name for cell in cold))
        _in_processes([(worker.warm_up, cell, out) for cell in cold], jobs, overrides)
    for warm, own in starts.items():
        distinct = {cell.setting: cell for cell in reversed(own)}  # the first of equals
        todo = sorted(distinct.values(), key=own.index)
        _say(f"{warm.name}: {len(todo)} cells to run")
        _in_processes([(worker.run_cell, cell, out, steps) for cell in todo], jobs, overrides)
    _todo(cells, out)  # equals take their results over
    headings = {name: what for name, (what, _) in grids.GRIDS.items()}
    return page.write(out, "SAPO laboratory", headings)


def _todo(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Return the cells without a result; one whose setting another grid has run takes that."""
    missing = []
    for cell in cells:
        path = out / "cells" / cell.name / "result.json"
        if path.exists():
            continue
        twins = [out / "cells" / f"{grid}-{cell.setting.name}-seed{cell.seed}" / "result.json"
                 for grid in grids.GRIDS]  # fmt: skip
        twin = next((path for path in twins if path.exists()), None)
        if twin is None:
            missing.append(cell)
            continue
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir(parents=True)
        result = json.loads(twin.read_text(encoding="utf-8"))
        write_json(path, result | {"cell": cell.describe()})
    return missing


def _in_processes(
    tasks: Sequence[tuple[Any, ...]], jobs: int | None, overrides: Sequence[str]
) -> None:
    """Run (function, arguments ..) side by side; the first failure ends all."""
    context = multiprocessing.get_context("spawn")
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    count = min(jobs or len(free), len(tasks))
    cores = context.Queue()
    for i in range(count):
        cores.put(free[i % len(free)])
    with ProcessPoolExecutor(
        count, context, worker.start, (os.getpid(), cores, list(overrides))
    ) as pool:
        futures = [pool.submit(function, *arguments) for function, *arguments in tasks]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                line = future.result()
                if line:
                    _say(f"[{number}/{len(futures)}] {line}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _same_sizes(out: Path, sizes: dict[str, Any]) -> None:
    path = out / "sizes.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, sizes)
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    if known != json.loads(json.dumps(sizes)):
        raise ConfigError(f"--out {out} holds cells of other sizes ({path}): name another folder")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
