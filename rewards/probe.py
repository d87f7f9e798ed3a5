"""Try each term of a rubric on gold answers and on junk, before anything is trained.

    for result in probe(rubric, samples):
        result.golds.right, result.junk.right, result.warnings

A verifier that never answers trains nothing, and one that accepts junk trains the wrong thing;
neither is visible in a reward of 0.5. Every term is asked about a few gold answers, written in
several usual forms because a user's function may insist on one, and about junk. A term that gives
no verdict on any gold answer is refused; what else looks wrong is a warning, as only the user knows
what a function of his should accept.

Left out: `check_gold` of the rubric, which asks the built-in verifiers about every gold answer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sapo_vl.errors import ConfigError
from sapo_vl.rewards import CHECK_GOLD, JUDGED, VERIFIERS
from sapo_vl.rewards.rubric import Pairs, Rubric
from sapo_vl.schema import Outcome, Sample, Verdict

GOLDS = 12
"""Gold answers that each term is asked about, spread over the records."""

FIRST = 4
"""Of these, asked first: a term that answers none of them in time is not waited for again."""

JUNK_RECORDS = 3
"""Records whose junk responses each term is asked about."""

FORMS = ("\\boxed{%s}", "%s", "<answer>%s</answer>", "<think>\n</think>\n\\boxed{%s}")
"""How a gold answer is written; the next form is tried for those that the last one got wrong."""


@dataclass(slots=True)
class VerdictCounts:
    """Verdicts by outcome."""

    right: int = 0
    wrong: int = 0
    none: int = 0  # without a verdict

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        self.right += verdict.outcome is Outcome.CORRECT
        self.wrong += verdict.outcome is Outcome.WRONG
        self.none += verdict.outcome is Outcome.NO_VERDICT


@dataclass(slots=True)
class TermProbe:
    """What one term said about gold answers and junk."""

    name: str  # the term's
    golds: VerdictCounts = field(default_factory=VerdictCounts)
    junk: VerdictCounts = field(default_factory=VerdictCounts)
    accepted: Counter[str] = field(default_factory=Counter)  # kind of junk -> accepted
    causes: Counter[str] = field(default_factory=Counter)  # cause -> responses without a verdict
    warnings: list[str] = field(default_factory=list)  # a line each


def probe(rubric: Rubric, samples: Sequence[Sample]) -> list[TermProbe]:
    """Return what each term says about some of the samples' gold answers and about junk.

    Raises:
        ConfigError: a term gave no verdict on any gold answer; names `rewards[i].fn` and the
            commonest cause.
        SetupError: the judge can't be reached.
    """
    assert samples, "no samples to try the verifiers on"
    golds = _spread(samples, GOLDS)
    return [_probe_term(rubric, i, golds) for i in range(len(rubric.terms))]


def _probe_term(rubric: Rubric, index: int, golds: Sequence[Sample]) -> TermProbe:
    name = rubric.terms[index].name
    key = f"rewards[{index}].fn={name}"
    result = TermProbe(name)
    for part in (golds[:FIRST], golds[FIRST:]):
        for verdict in _on_golds(rubric, name, part):
            result.golds.add(verdict)
            _count_cause(result, verdict)
        asked = result.golds.right + result.golds.wrong + result.golds.none
        slow = any(cause.startswith("timeout") for cause in result.causes)
        if result.golds.none == asked and (slow or asked == len(golds)):
            _check_judge(rubric, name)
            raise ConfigError(
                f"{key}: no verdict on any of {asked} gold answers, so nothing could be learned "
                f"from it: {_commonest(result)}"
            )
    kinds = _junk(golds)
    verdicts = rubric.verdicts(name, [pair for _, pair in kinds], [1] * len(kinds))
    for (kind, _), verdict in zip(kinds, verdicts, strict=True):
        result.junk.add(verdict)
        _count_cause(result, verdict)
        result.accepted[kind] += verdict.outcome is Outcome.CORRECT
    if 3 * result.junk.none >= len(kinds):  # half of the junk is refused without a call
        _check_judge(rubric, name)
    result.warnings = [f"{key}: {text}" for text in _warnings(result, index, len(golds))]
    return result


def _on_golds(rubric: Rubric, name: str, samples: Sequence[Sample]) -> list[Verdict]:
    """Return a verdict per gold answer: that of the first form in which it is correct."""
    verdicts: dict[int, Verdict] = {}
    for form in FORMS:
        left = [
            i
            for i in range(len(samples))
            if i not in verdicts or verdicts[i].outcome is Outcome.WRONG
        ]
        pairs: Pairs = [(samples[i], form.replace("%s", samples[i].answer)) for i in left]
        if pairs:
            asked = rubric.verdicts(name, pairs, [1] * len(pairs))
            verdicts |= dict(zip(left, asked, strict=True))
    return [verdicts[i] for i in range(len(samples))]


def _junk(samples: Sequence[Sample]) -> list[tuple[str, tuple[Sample, str]]]:
    """Return (kind, (sample, response)) of responses that no answer can be."""
    words = random.Random(0)
    noise = " ".join(
        "".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=words.randint(3, 9)))
        for _ in range(400)
    )
    result = []
    for sample in samples[:JUNK_RECORDS]:
        texts = {"an empty response": "", "I don't know": "I don't know.", "random words": noise}
        other = next((s.answer for s in samples if s.answer != sample.answer), None)
        if other is not None:
            texts["another record's gold answer"] = f"\\boxed{{{other}}}"
        result += [(kind, (sample, text)) for kind, text in texts.items()]
    return result


def _warnings(result: TermProbe, index: int, golds: int) -> list[str]:
    """Return what looks wrong about a term that answers."""
    lines = []
    if result.golds.none or result.junk.none:
        lines.append(
            f"no verdict on {result.golds.none} of {golds} gold answers and on "
            f"{result.junk.none} of {result.junk.none + result.junk.right + result.junk.wrong} "
            f"junk responses: {_commonest(result)}"
        )
    decides = index == 0 and result.name not in VERIFIERS
    if not (decides or result.name in (*CHECK_GOLD, *JUDGED)):
        return lines
    if result.golds.right == 0:
        lines.append(
            f"refuses all {golds} gold answers, written in {len(FORMS)} forms: does it expect "
            "another one?"
        )
    accepted = [f"{kind} ({count} times)" for kind, count in result.accepted.items() if count]
    if accepted:
        lines.append(f"accepts junk: {', '.join(accepted)}")
    return lines


def _check_judge(rubric: Rubric, name: str) -> None:
    """Raise SetupError where the term's judge doesn't respond or lacks the model."""
    if name in JUDGED and rubric.judge is not None:
        rubric.judge.check()


def _count_cause(result: TermProbe, verdict: Verdict) -> None:
    if verdict.outcome is Outcome.NO_VERDICT:
        result.causes[verdict.cause] += 1


def _commonest(result: TermProbe) -> str:
    return result.causes.most_common(1)[0][0]


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return up to `count` samples, evenly spaced."""
    count = min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]
