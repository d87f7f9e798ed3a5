"""The collapse detector: rules over a run's training rows that say when learning came apart.

    detector = Detector(config.collapse)
    detector.replay(rows of metrics.jsonl)      # after a resume
    for alarm in detector.observe(row): ...

A rule looks at one value of each row. It fires once in a run, when its value was beyond the
threshold for `collapse.patience` steps in a row. A value that is not finite (null in metrics.jsonl)
counts as beyond; a value that a row lacks (a step without a trained response has no entropy) leaves
the count as it is. `start` is the mean of the first five values, so a rule relative to it is silent
before: a collapse within the first five steps is for the other rules to see.

What the numbers mean and where they come from: the mean entropy of a healthy run falls as it learns
and levels off (0.2 to 0.05 nats in the main job, which samples short answers), near 0 there is
nothing left to explore, and far above the start the policy is turning to noise. w has its mean near
1 while the steps are small (0.9995 in the main job); below half the gate blocks most of the batch.
The effective sample size of the ratios is what is left of the batch after importance weighting.
Where long reasoning is meant to grow out of short answers, raise `collapse.length`.

The reward rule compares the mean of the last five rewards with the best such mean. It fires when
the reward lost `collapse.reward_drop` of its best, counted from 0, or from the start where that was
below 0. Falling from the start counts too, since a policy may come warmed up. So that a policy that
never learned is no alarm, the fall must also exceed eight times the noise of such a mean, taken
from how much the reward differs from step to step. (In 2,400 simulated runs of 200 steps with a
constant success rate of 2 to 50 % and 16 to 512 responses a step, five times gave alarms in up to a
third, eight times in none. The price: with 16 responses a step a fall from 0.3 to 0.1 mostly goes
unseen; with 512 the alarm comes with the sixth step, at the median.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sapo_vl.config import CollapseConfig

FIRST = 5
"""Steps whose mean is the start, and steps of a moving mean."""

ENTROPY_FLOOR = 0.1
"""nats; a start below counts as this: from 0.02 to 0.06 is no explosion."""

NOISE = 8.0
"""Standard deviations of a moving mean by which the reward must have fallen."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule that fired."""

    rule: str  # a name of RULES
    step: int  # at which it fired
    since: int  # first of the steps in a row that it held: checkpoints before are good
    value: float  # what it saw at `step`; NaN where that was not finite
    threshold: float  # beyond which it holds; NaN where that was not known yet
    message: str  # one line for the person who runs it


@dataclass(slots=True)
class Series:
    """What is remembered of one value's finite readings."""

    count: int = 0
    first: list[float] = field(default_factory=list)  # up to FIRST readings
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=FIRST))
    best: float = -math.inf  # largest moving mean
    squares: float = 0.0  # sum of squared differences of neighbours

    def add(self, value: float) -> None:
        """Take a reading in."""
        if self.recent:
            self.squares += (value - self.recent[-1]) ** 2
        if len(self.first) < FIRST:
            self.first.append(value)
        self.count += 1
        self.recent.append(value)
        if self.count >= FIRST:
            self.best = max(self.best, self.moving)

    @property
    def start(self) -> float:
        """Return the mean of the first readings; NaN before there are enough."""
        return sum(self.first) / FIRST if self.count >= FIRST else math.nan

    @property
    def moving(self) -> float:
        """Return the mean of the last readings; NaN before there are enough."""
        return sum(self.recent) / FIRST if self.count >= FIRST else math.nan

    @property
    def noise(self) -> float:
        """Return the standard deviation of a moving mean, were the readings independent."""
        return math.sqrt(self.squares / (2 * max(1, self.count - 1)) / FIRST)


class Rule(NamedTuple):
    """One rule: it holds where the value is beyond the threshold; never while that is NaN."""

    name: str
    key: str  # of the metrics row
    side: Literal["below", "above"]
    threshold: Callable[[CollapseConfig, Series], float]
    words: Callable[[CollapseConfig], str]  # the threshold for people
    smooth: bool = False  # look at the moving mean


def _reward_threshold(options: CollapseConfig, series: Series) -> float:
    nothing = min(0.0, series.start)
    return min(
        series.best - options.reward_drop * (series.best - nothing),
        series.best - NOISE * series.noise,
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "entropy_low",
        "entropy",
        "below",
        lambda options, series: options.entropy_low,
        lambda options: f"{options.entropy_low:g} nats",
    ),
    Rule(
        "entropy_rise",
        "entropy",
        "above",
        lambda options, series: options.entropy_rise * max(series.start, ENTROPY_FLOOR),
        lambda options: (
            f"{options.entropy_rise:g} x start, which counts as {ENTROPY_FLOOR:g} nats or more"
        ),
    ),
    Rule(
        "gate",
        "gate/mean",
        "below",
        lambda options, series: options.gate,
        lambda options: f"{options.gate:g}",
    ),
    Rule(
        "ess",
        "ratio/ess",
        "below",
        lambda options, series: options.ess,
        lambda options: f"{options.ess:g}",
    ),
    Rule(
        "length_rise",
        "response/length",
        "above",
        lambda options, series: options.length * series.start,
        lambda options: f"{options.length:g} x start",
    ),
    Rule(
        "length_fall",
        "response/length",
        "below",
        lambda options, series: series.start / options.length,
        lambda options: f"start / {options.length:g}",
    ),
    Rule(
        "reward_drop",
        "reward/mean",
        "below",
        _reward_threshold,
        lambda options: (
            f"{100 * (1 - options.reward_drop):g} % of its best, and by {NOISE:g} x its noise"
        ),
        smooth=True,
    ),
)
"""All rules, in the order in which alarms of one step are given."""


class Detector:
    """Watches one run. Pure: it reads rows and tells; what to do about it is the caller's."""

    def __init__(self, options: CollapseConfig, *, gated: bool = True) -> None:
        """`gated` is False for an objective that clips: its share inside the bounds is no gate."""
        self._options = options
        self._rules = [rule for rule in RULES if gated or rule.name != "gate"]
        self._series = {rule.key: Series() for rule in self._rules}
        self._since: dict[str, int] = {}
        self._held = {rule.name: 0 for rule in self._rules}
        self._fired: set[str] = set()

    def observe(self, row: Mapping[str, Any]) -> list[Alarm]:
        """Take a metrics row in and return the rules that fire at it; none for other phases."""
        if row.get("phase") != "train":
            return []
        readings = {key: _number(row[key]) for key in self._series if key in row}
        for key, value in readings.items():
            if math.isfinite(value):
                self._series[key].add(value)
        judged = [rule for rule in self._rules if rule.key in readings]
        alarms = [self._judge(rule, readings[rule.key], int(row["step"])) for rule in judged]
        return [alarm for alarm in alarms if alarm is not None]

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
        """Take in the rows of a run that goes on; return the alarms it has already given."""
        return [alarm for row in rows for alarm in self.observe(row)]

    def _judge(self, rule: Rule, reading: float, step: int) -> Alarm | None:
        series = self._series[rule.key]
        finite = math.isfinite(reading)
        value = series.moving if rule.smooth and finite else reading
        threshold = rule.threshold(self._options, series)
        beyond = value < threshold if rule.side == "below" else value > threshold
        if finite and not beyond:
            self._held[rule.name] = 0
            return None
        self._held[rule.name] += 1
        if self._held[rule.name] == 1:
            self._since[rule.name] = step
        if self._held[rule.name] < self._options.patience or rule.name in self._fired:
            return None
        self._fired.add(rule.name)
        since = self._since[rule.name]
        message = _message(rule, value, threshold, since)
        return Alarm(rule.name, step, since, value, threshold, message)


def first_alarm(
    rows: Iterable[Mapping[str, Any]], options: CollapseConfig, *, gated: bool = True
) -> Alarm | None:
    """Return a run's first alarm, whose step is the one of its divergence; None for a sound run."""
    detector = Detector(options, gated=gated)
    return next((alarm for row in rows for alarm in detector.observe(row)), None)


def describe(options: CollapseConfig) -> str:
    """Return the rules with their thresholds as a Markdown table."""
    lines = ["| rule | value | alarm when it is |", "|---|---|---|"]
    for rule in RULES:
        seen = f"`{rule.key}`" + (f", mean of {FIRST} steps" if rule.smooth else "")
        lines.append(f"| {rule.name} | {seen} | {rule.side} {rule.words(options)} |")
    return "\n".join(lines)


def _message(rule: Rule, value: float, threshold: float, since: int) -> str:
    if not math.isfinite(value):
        return f"{rule.name}: {rule.key} is not finite; beyond the rule since step {since}"
    seen = f"{rule.key} (mean of {FIRST} steps)" if rule.smooth else rule.key
    return f"{rule.name}: {seen} is {value:.4g}, {rule.side} {threshold:.4g} since step {since}"


def _number(value: Any) -> float:
    """Return a value of a row, NaN for the null that stands for what is not finite."""
    return math.nan if value is None else float(value)
