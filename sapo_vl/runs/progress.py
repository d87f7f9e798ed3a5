"""Terminal output of a run: a live progress bar, or plain lines in a log file; and tables.

    with ProgressDisplay(None, total=120, title="SAPO") as display:
        display.update(3, {"reward": 0.41, "accuracy": 0.37, "tokens/s": 3150.0})
        display.log("checkpoint written")

On a terminal the bar is redrawn at each update and log lines appear above it. Elsewhere (a log
file, nohup) a line is printed for the first and the last step, each tenth of the total, and
otherwise every 10 s. No thread redraws the bar.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from sapo_vl.errors import printable_lines

SECONDS_BETWEEN_LINES = 10.0
LOG_WIDTH = 10_000
"""Columns of a table that is not on a terminal: a log's lines are never wrapped."""

NUMBER = re.compile(r"[+\-−±]?[\d.,]+")


class ProgressDisplay:
    """Step, total, time left and some fields; a context manager."""

    def __init__(
        self, enabled: bool | None, total: int, title: str, console: Console | None = None
    ) -> None:
        """`enabled`: None for live on a terminal, True for live, False for silent (rank > 0)."""
        self.total = total
        self.title = title
        self._console = console or Console()
        self._silent = enabled is False
        self._live: Progress | None = None
        if self._console.is_terminal if enabled is None else enabled:
            self._live = Progress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}", style="dim"),
                TextColumn("{task.fields[values]}", markup=False),
                console=self._console,
                auto_refresh=False,
            )
            self._task = self._live.add_task(title, total=total, left="", values="", visible=False)
        self._started = time.monotonic()
        self._start_step: int | None = None
        self._printed_at = -SECONDS_BETWEEN_LINES
        self._printed_step = -1

    def __enter__(self) -> ProgressDisplay:
        self._started = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, step: int, fields: Mapping[str, str | float]) -> None:
        """Show that `step` of `total` steps are done, and the fields."""
        if self._silent:
            return
        if self._start_step is None:
            self._start_step = step - 1  # a resumed run does not start at 0
        elapsed = time.monotonic() - self._started
        remaining = elapsed / max(step - self._start_step, 1) * (self.total - step)
        done = step >= self.total
        left = f"{_clock(elapsed)} in all" if done else f"{_clock(remaining)} left"
        values = "  ".join(f"{name} {_number(value)}" for name, value in fields.items())
        if self._live is not None:
            self._live.update(self._task, completed=step, left=left, values=values, visible=True)
            self._live.refresh()
        elif self._is_due(step):
            parts = (f"{self.title} {step}/{self.total}", values, left)
            self.log("  ".join(part for part in parts if part))
            self._printed_at, self._printed_step = time.monotonic(), step

    def log(self, message: str) -> None:
        """Print one line, above the bar if it is live."""
        if not self._silent:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _is_due(self, step: int) -> bool:
        tenth = max(self.total, 1) / 10
        return (
            step >= self.total
            or int(step / tenth) > int(max(self._printed_step, 0) / tenth)
            or time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES
        )


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console | None = None,
) -> None:
    """Print a table with number columns right-aligned; cells wrap on a terminal only.

    Control characters of title and cells, which may be foreign text, are escaped.
    """
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=LOG_WIDTH)
    console.print(Text(printable_lines(title)))  # a Table's own title wraps at the table's width
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        is_number = bool(rows) and all(NUMBER.match(row[i].strip()) for row in rows)
        grid.add_column(
            Text(printable_lines(name)), justify="right" if is_number else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*(Text(printable_lines(cell)) for cell in row))
    console.print(grid)
    console.print()


def _number(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
