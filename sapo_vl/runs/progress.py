"""What a person sees while a run goes on: a live line on a terminal, plain lines in a log.

    with Progress(None, total=120, title="SAPO") as progress:
        progress.update(3, {"reward": 0.41, "accuracy": 0.37, "tokens/s": 3150.0})
        progress.log("checkpoint written")

On a terminal the display is redrawn at each update and log lines go above it. Elsewhere (a log
file, nohup) a line is printed at the first and last step, at each tenth, and else every 10 s.
No thread redraws it: the display changes when there is something new.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
NUMBER = re.compile(r"[+\-−±]?[\d.,]+")


class Progress:
    """A display of step, total, time left and some fields; a context manager."""

    def __init__(
        self, enabled: bool | None, total: int, title: str, console: Console | None = None
    ) -> None:
        """`enabled`: None decides by the terminal, True is live, False is silent (other ranks)."""
        self.total = total
        self.title = title
        self._console = console or Console()
        self._silent = enabled is False
        live = self._console.is_terminal if enabled is None else enabled
        self._live = Live(console=self._console, auto_refresh=False) if live else None
        self._started = time.monotonic()
        self._first_step: int | None = None
        self._printed_at = -SECONDS_BETWEEN_LINES
        self._printed_step = -1

    def __enter__(self) -> Progress:
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
        """Show that `step` of `total` steps are done, with the fields beside them."""
        if self._silent:
            return
        if self._first_step is None:
            self._first_step = step - 1  # the step a resumed run starts from
        left = self._left(step)
        values = [f"{name} {_number(value)}" for name, value in fields.items()]
        if self._live is not None:
            bar = Table.grid(padding=(0, 2))
            bar.add_row(
                Text(self.title, style="bold"),
                ProgressBar(total=self.total, completed=step, width=30),
                f"{step}/{self.total}",
                Text(left, style="dim"),
            )
            self._live.update(Group(bar, Text("   ".join(values))), refresh=True)
        elif self._is_due(step):
            self._plain("  ".join([f"{self.title} {step}/{self.total}", *values, left]))
            self._printed_at, self._printed_step = time.monotonic(), step

    def log(self, message: str) -> None:
        """Print one line, above the display where it is live."""
        if not self._silent:
            self._plain(message)

    def _plain(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _is_due(self, step: int) -> bool:
        tenth = max(self.total, 1) / 10
        return (
            step >= self.total
            or int(step / tenth) > int(max(self._printed_step, 0) / tenth)
            or time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES
        )

    def _left(self, step: int) -> str:
        done = step - (self._first_step or 0)
        elapsed = time.monotonic() - self._started
        if step >= self.total:
            return f"{_clock(elapsed)} in all"
        return f"{_clock(elapsed / max(done, 1) * (self.total - step))} left"


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console | None = None,
) -> None:
    """Print a table: with rules that fit a terminal, else aligned text that no width wraps."""
    console = console or Console()
    right = [
        len(rows) > 0 and all(NUMBER.match(row[i].strip()) for row in rows)
        for i in range(len(columns))
    ]
    if console.is_terminal:
        grid = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        for name, is_number in zip(columns, right, strict=True):
            grid.add_column(name, justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            grid.add_row(*[Text(cell) for cell in row])
        console.print(grid)
        return
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    lines = [title]
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


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
