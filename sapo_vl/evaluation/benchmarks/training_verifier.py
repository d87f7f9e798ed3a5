"""The training verifiers (rewards/) as a benchmark's judge, and math-verify as R1-V calls it.

    verdict = equal(row, "\\\\frac{1}{2}")                   # bare answer against the row's gold
    pool = math_verify(row)                                # whole response, in a killable worker

Nothing a model wrote is evaluated in this process: what exact arithmetic cannot decide is asked of
the worker pool.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.protocol import Row
from sapo_vl.rewards.parsing.extract import Extraction, final_answer
from sapo_vl.rewards.verifiers import maths
from sapo_vl.schema import Outcome, Sample, Verdict

_WORKER = Path(__file__).with_name("math_verify_worker.py")


def sample(row: Row) -> Sample:
    """Return the verifier's view of a row: gold and options."""
    return Sample(
        id=row.problem_id,
        dataset="",
        task="",
        problem=row.question,
        images=(),
        answer=", ".join(str(row.gold).split("\n")),  # MMK12: an answer per line
        choices=tuple(row.options.values()),
    )


def answer(response: str) -> str | None:
    """Return the final answer of a response, as in training."""
    return final_answer(response).answer


def equal(row: Row, value: str) -> Verdict:
    """Compare a bare answer with the row's gold as mathematics.

    A gold without a letter or a digit (MMK12 has "<") is no mathematics: its text is compared.
    """
    try:
        return maths.decided(maths.compare(sample(row), Extraction(value, "given")))
    except DataError:
        same = _bare(value) == _bare(str(row.gold))
        outcome = Outcome.CORRECT if same else Outcome.WRONG
        return Verdict(outcome, float(same), f"as text against {row.gold!r}", value)


def _bare(text: str) -> str:
    return "".join(text.split()).strip("$.")


def equal_texts(row: Row, gold: str, value: str) -> Verdict:
    """Compare a bare answer with `gold`, which takes the place of the row's own."""
    return equal(replace(row, gold=gold), value)


def math_verify(row: Row, value: str) -> Verdict:
    """Return what `verify(parse(value), parse(gold))` says, from a worker of the pool.

    What the worker doesn't finish is wrong: math-verify's own limit of 5 s gives "not equal".
    """
    from sapo_vl.rewards.pool.client import shared

    found = shared().call_user(str(_WORKER), "verdict", [(sample(row), value)])[0]
    if found.outcome is Outcome.NO_VERDICT and found.reason.startswith("timeout"):
        return replace(found, outcome=Outcome.WRONG)
    return found
