"""Detects training collapse from the logged metrics.

    detector = Detector(config.collapse)
    detector.replay(rows of metrics.jsonl)      # after a resume
    for alarm in detector.observe(row): ...

A rule watches one metric. It fires once per run, when the metric has been beyond its threshold for
`collapse.patience` consecutive steps. A non-finite value (null in metrics.jsonl) counts as beyond;
a row without the metric (a step with nothing trained has no entropy) leaves the count unchanged.
`start` is the mean of the first five values; rules relative to it are inactive until then, and a
collapse within the first five steps is left to the other rules.

The thresholds: a healthy run's mean entropy falls while it learns and then levels off (0.2 to 0.05
nats in the main job, which samples short answers); near 0 nothing is left to explore, and far above
the start the policy degenerates to noise. The mean of w is close to 1 while steps are small (0.9995
in the main job); below 0.5 the gate blocks most of the batch. The effective sample size of the
ratios is the part of the batch that remains after importance weighting. Raise `collapse.length` if
short answers are expected to grow into long reasoning.

The reward rule compares the mean of the last five rewards with the best such mean. It fires when
the reward has lost `collapse.reward_drop` of its best, measured from 0, or from the start if that
was negative. Falling below the start counts too, since a policy may be warmed up. To avoid alarms
for a policy that never learned, the fall must also exceed eight standard deviations of such a mean,
estimated from the differences of consecutive steps. (In 2,400 simulated runs of 200 steps with a
constant success rate of 2 to 50 % and 16 to 512 responses per step, five deviations gave alarms in
up to a third of the runs, eight in none. The cost: with 16 responses per step a fall from 0.3 to
0.1 mostly goes undetected; with 512 the median alarm comes at the sixth step.)
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sapo_vl.config.sections import CollapseConfig

FIRST = 5
"""Steps that `start` averages, and window of the moving mean."""

ENTROPY_FLOOR = 0.1
"""Lower limit of an entropy's start, in nats: a rise from 0.02 to 0.06 is not a collapse."""

NOISE = 8.0
"""Standard deviations of a moving mean that the reward must have fallen by."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule that fired."""

    rule: str  # a name of RULES
    step: int  # at which it fired
    since: int  # first of the consecutive steps beyond the threshold: earlier checkpoints are good
    value: float  # the metric at `step`; NaN if it was not finite
    threshold: float  # NaN if it was not known yet
    message: str  # one line for the user


@dataclass(slots=True)
class Series:
    """Running statistics of a metric's finite values."""

    count: int = 0
    first: list[float] = field(default_factory=list)  # up to FIRST values
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=FIRST))
    best: float = -math.inf  # largest moving mean
    squares: float = 0.0  # sum of squared differences of consecutive values

    def add(self, value: float) -> None:
        """Add a value."""
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
        """Return the mean of the first values; NaN until there are FIRST."""
        return sum(self.first) / FIRST if self.count >= FIRST else math.nan

    @property
    def moving(self) -> float:
        """Return the mean of the last values; NaN until there are FIRST."""
        return sum(self.recent) / FIRST if self.count >= FIRST else math.nan

    @property
    def noise(self) -> float:
        """Return the standard deviation of a moving mean, assuming independent values."""
        return math.sqrt(self.squares / (2 * max(1, self.count - 1)) / FIRST)


class Rule(NamedTuple):
    """A metric's limit: the rule holds while the value is beyond the threshold; never for NaN."""

    name: str
    key: str  # of the metrics row
    side: Literal["below", "above"]
    threshold: Callable[[CollapseConfig, Series], float]
    smooth: bool = False  # judge the moving mean


def _reward_threshold(options: CollapseConfig, series: Series) -> float:
    zero = min(0.0, series.start)
    return min(
        series.best - options.reward_drop * (series.best - zero),
        series.best - NOISE * series.noise,
    )


RULES: tuple[Rule, ...] = (
    Rule("entropy_low", "entropy", "below", lambda options, series: options.entropy_low),
    Rule(
        "entropy_rise",
        "entropy",
        "above",
        lambda options, series: options.entropy_rise * max(series.start, ENTROPY_FLOOR),
    ),
    Rule("gate", "gate/mean", "below", lambda options, series: options.gate),
    Rule("ess", "ratio/ess", "below", lambda options, series: options.ess),
    Rule(
        "length_rise",
        "response/length",
        "above",
        lambda options, series: options.length * series.start,
    ),
    Rule(
        "length_fall",
        "response/length",
        "below",
        lambda options, series: series.start / options.length,
    ),
    Rule("reward_drop", "reward/mean", "below", _reward_threshold, smooth=True),
)
"""All rules; alarms of the same step come in this order."""


class Detector:
    """Applies the rules to one run's rows. Pure: acting on alarms is left to the caller."""

    def __init__(self, options: CollapseConfig, *, gated: bool = True) -> None:
        """`gated` is False for a clipping objective: its weights mark tokens inside bounds."""
        self._options = options
        self._rules = [rule for rule in RULES if gated or rule.name != "gate"]
        self._series = {rule.key: Series() for rule in self._rules}
        self._since: dict[str, int] = {}
        self._streak = {rule.name: 0 for rule in self._rules}
        self._fired: set[str] = set()

    def observe(self, row: Mapping[str, Any]) -> list[Alarm]:
        """Process a metrics row and return the alarms of its step; none for other phases."""
        if row.get("phase") != "train":
            return []
        values = {key: _number(row[key]) for key in self._series if key in row}
        for key, value in values.items():
            if math.isfinite(value):
                self._series[key].add(value)
        present = [rule for rule in self._rules if rule.key in values]
        alarms = [self._judge(rule, values[rule.key], int(row["step"])) for rule in present]
        return [alarm for alarm in alarms if alarm is not None]

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
        """Process the rows of a resumed run; return the alarms that have already been given."""
        return [alarm for row in rows for alarm in self.observe(row)]

    def _judge(self, rule: Rule, latest: float, step: int) -> Alarm | None:
        series = self._series[rule.key]
        finite = math.isfinite(latest)
        value = series.moving if rule.smooth and finite else latest
        threshold = rule.threshold(self._options, series)
        beyond = value < threshold if rule.side == "below" else value > threshold
        if finite and not beyond:
            self._streak[rule.name] = 0
            return None
        self._streak[rule.name] += 1
        if self._streak[rule.name] == 1:
            self._since[rule.name] = step
        if self._streak[rule.name] < self._options.patience or rule.name in self._fired:
            return None
        self._fired.add(rule.name)
        since = self._since[rule.name]
        message = _message(rule, value, threshold, since)
        return Alarm(rule.name, step, since, value, threshold, message)


def first_alarm(
    rows: Iterable[Mapping[str, Any]], options: CollapseConfig, *, gated: bool = True
) -> Alarm | None:
    """Return a run's first alarm, whose step counts as its divergence; None without alarms."""
    detector = Detector(options, gated=gated)
    return next((alarm for row in rows for alarm in detector.observe(row)), None)


def _message(rule: Rule, value: float, threshold: float, since: int) -> str:
    if not math.isfinite(value):
        return f"{rule.name}: {rule.key} is not finite; beyond its limit since step {since}"
    metric = f"{rule.key} (mean of {FIRST} steps)" if rule.smooth else rule.key
    return f"{rule.name}: {metric} is {value:.4g}, {rule.side} {threshold:.4g} since step {since}"


def _number(value: Any) -> float:
    """Return a row's value; NaN for null, which stands for a non-finite one."""
    return math.nan if value is None else float(value)
