"""The training verifiers (rewards/) as a benchmark's judge, and math-verify as R1-V calls it.

    equal(response, "\\\\frac{1}{2}")           # a bare answer against the problem's answer
    math_verify(response, response.text)       # the whole response, in a worker that can be killed

Text written by a model is never evaluated in this process: what exact arithmetic cannot decide goes
to the worker pool.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sapo_vl.errors import DataError
from sapo_vl.evaluation.benchmarks.protocol import Response
from sapo_vl.rewards.parsing.extract import Extraction, final_answer
from sapo_vl.rewards.pool.client import resolve, shared
from sapo_vl.rewards.verifiers import maths
from sapo_vl.schema import Outcome, Sample, Verdict

_WORKER = Path(__file__).with_name("math_verify_worker.py")


def sample(response: Response) -> Sample:
    """Return the problem of a response as the verifiers read it: answer and choices."""
    return Sample(
        id=response.problem_id,
        dataset="",
        task="",
        problem=response.question,
        images=(),
        answer=", ".join(str(response.answer).split("\n")),  # MMK12 has an answer per line
        choices=tuple(response.choices.values()),
    )


def answer(response: str) -> str | None:
    """Return the final answer of a response, extracted as in training."""
    return final_answer(response).answer


def equal(response: Response, value: str) -> Verdict:
    """Compare a bare answer with the problem's answer as mathematics.

    An answer without a letter or a digit (MMK12 has "<") is compared as text.
    """
    try:
        return resolve(maths.compare(sample(response), Extraction(value, "given")))
    except DataError:
        same = _bare(value) == _bare(str(response.answer))
        outcome = Outcome.CORRECT if same else Outcome.WRONG
        return Verdict(outcome, float(same), f"as text against {response.answer!r}", value)


def _bare(text: str) -> str:
    return "".join(text.split()).strip("$.")


def equal_texts(response: Response, expected: str, value: str) -> Verdict:
    """Compare a bare answer with `expected` instead of the problem's answer."""
    return equal(replace(response, answer=expected), value)


def math_verify(response: Response, value: str) -> Verdict:
    """Return the verdict of `verify(parse(value), parse(answer))`, run in a worker of the pool.

    A timeout is a wrong answer: math-verify's own limit of 5 s gives "not equal".
    """
    verdict = shared().call_user(f"{_WORKER}:verdict", [(sample(response), value)])[0]
    if verdict.outcome is Outcome.NO_VERDICT and verdict.reason.startswith("timeout"):
        return replace(verdict, outcome=Outcome.WRONG)
    return verdict
