"""`sapo-vl lab`: runs grids of cells in parallel and writes the page.

    OUT/warmup/seed0/            data and the warmed-up model of a seed
    OUT/cells/NAME/result.json   a cell's result; a cell that has one is not run again
    OUT/page.html page.md summary.json cells.csv figures/

There is one worker process per core, started anew for each warmed-up model, because a sampler
serves one model. All warm-ups run first, in parallel. After a kill the lab resumes with the cells
that have no result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from sapo_vl.config import load
from sapo_vl.errors import ConfigError, nearest
from sapo_vl.lab import grids, worker
from sapo_vl.lab.grids import Cell
from sapo_vl.runs.files import read_json, user_path, write_json
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
    """Run the named grids for seeds 0, 1, .. and return the page's path.

    `overrides` (`key=value`) apply to every cell and every warm-up. Raises ConfigError for an
    unknown grid or key, and for an OUT whose cells were run with other sizes.
    """
    from sapo_vl.lab import page

    for name in names:
        if name not in grids.GRIDS:
            raise ConfigError(
                f"grid {name!r} is unknown{nearest(name, grids.GRIDS)}; known: "
                + ", ".join(f"{key} ({what})" for key, (what, _) in grids.GRIDS.items())
            )
    prepare_environment()
    load(worker.MAIN, list(overrides))
    with user_path("--out", out):
        out.mkdir(parents=True, exist_ok=True)
    _check_sizes(out, {"steps": steps, "overrides": list(overrides), "sizes": grids.SIZES})
    cells = grids.cells(list(names), list(range(seeds)))
    by_start: dict[Path, list[Cell]] = {}
    for cell in missing_cells(cells, out):
        by_start.setdefault(cell.warm_up(out), []).append(cell)
    cold = [same[0] for start, same in by_start.items() if not (start / "warmup/final").exists()]
    if cold:
        _log("warm-up of " + ", ".join(cell.warm_up(out).name for cell in cold))
        _run_parallel(worker.warm_up, [(cell, out) for cell in cold], jobs, overrides)
    for start, same in by_start.items():
        # Run each distinct setting once, the first cell of it; duplicates reuse its result.
        todo = {cell.setting: cell for cell in reversed(same)}
        ordered = sorted(todo.values(), key=same.index)
        _log(f"{start.name}: {len(ordered)} cells to run")
        _run_parallel(worker.run_cell, [(cell, out, steps) for cell in ordered], jobs, overrides)
    missing_cells(cells, out)  # copies results to the duplicates
    headings = {name: what for name, (what, _) in grids.GRIDS.items()}
    return page.write(out, "SAPO laboratory", headings)


def missing_cells(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Return the cells without a result, after copying results of equal settings of other grids."""
    missing = []
    for cell in cells:
        path = out / "cells" / cell.name / "result.json"
        if path.exists():
            continue
        names = [f"{grid}-{cell.setting.name}-seed{cell.seed}" for grid in grids.GRIDS]
        results = (read_json(out / "cells" / name / "result.json") for name in names)
        result = next((result for result in results if result is not None), None)
        if result is None:
            missing.append(cell)
            continue
        shutil.rmtree(path.parent, ignore_errors=True)
        write_json(path, result | {"cell": cell.describe()})
    return missing


def _run_parallel(
    function: Callable[..., str | None],
    calls: Sequence[tuple[Any, ...]],
    jobs: int | None,
    overrides: Sequence[str],
) -> None:
    """Call `function` with each tuple of arguments, one process per core; log what it returns.

    The first exception cancels the remaining calls, terminates the processes and propagates.
    """
    context = multiprocessing.get_context("spawn")
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    count = min(jobs or len(available), len(calls))
    cores = context.Queue()
    for i in range(count):
        cores.put(available[i % len(available)])
    with ProcessPoolExecutor(
        count, context, worker.start, (os.getpid(), cores, list(overrides))
    ) as pool:
        futures = [pool.submit(function, *arguments) for arguments in calls]
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                line = future.result()
                if line:
                    _log(f"[{number}/{len(futures)}] {line}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _check_sizes(out: Path, sizes: dict[str, Any]) -> None:
    """Record the sizes of OUT's cells. Raises ConfigError if they differ from the recorded ones."""
    path = out / "sizes.json"
    recorded = read_json(path)
    if recorded is None:
        write_json(path, sizes)
    elif recorded != json.loads(json.dumps(sizes)):
        raise ConfigError(f"--out {out} holds cells of other sizes ({path}): name another folder")


def _log(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
