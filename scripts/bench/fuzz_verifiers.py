"""Count wrong verdicts on answers from the grammar of tests/answer_grammar.py.

    bash scripts/fuzz_verifiers.sh [--count 100000] [--seed 0] [--kinds money quantity]

Each case gives a gold answer, one answer that equals it and one that doesn't, each dressed as a
whole response. Exact arithmetic decides nearly all of them; what it leaves open goes to a worker,
at most `--algebra` answers of each kind, and the rest is counted as open. The kinds that always
need computer algebra get that many cases. Exits with 1 if a verdict is wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from random import Random

from answer_structures import KINDS, SYMBOLIC, draw, dressed

from sapo_vl.rewards.pool import client
from sapo_vl.rewards.pool.jobs import NeedsWorker
from sapo_vl.rewards.verifiers import choice, maths
from sapo_vl.schema import Outcome, Sample, Verdict

MAX_SHOWN = 20  # failures of one kind that are printed in full


class Tally:
    """The verdicts on one kind of case."""

    def __init__(self, kind: str, algebra: int) -> None:
        self.kind, self.algebra = kind, algebra
        self.counts: Counter[str] = Counter()

    def add(self, case_id: str, rng: Random) -> None:
        """Draw a case and judge one equal and one different answer."""
        case = draw(rng, self.kind)
        sample = Sample(case_id, "fuzz", self.kind, "?", (), case.gold, choices=case.choices)
        for is_equal, answer in ((True, case.equal(rng)), (False, case.different(rng))):
            response = dressed(rng, answer)
            judge = choice.score if case.choices else maths.decide_fast
            verdict = self._decided(judge(sample, response))
            name = "equal" if is_equal else "different"
            self.counts[name] += 1
            if verdict is None or verdict.outcome is Outcome.NO_VERDICT:
                self.counts[f"{name} open"] += 1
            elif (verdict.outcome is Outcome.CORRECT) is not is_equal:
                self.counts[f"{name} wrong"] += 1
                if self.counts[f"{name} wrong"] <= MAX_SHOWN:
                    print(f"{case_id} {name}: gold {case.gold!r}, response {response!r}")

    def _decided(self, result: Verdict | NeedsWorker) -> Verdict | None:
        """Return the verdict; None for one that needs a worker when enough have been asked."""
        if not isinstance(result, NeedsWorker):
            return result
        self.counts["algebra"] += 1
        return client.resolve(result) if self.counts["algebra"] <= self.algebra else None


def main() -> int:
    """Run the count that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="answers of each sort")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--algebra", type=int, default=200, help="answers per kind for a worker")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    fast = [kind for kind in options.kinds if kind not in SYMBOLIC]
    total: Counter[str] = Counter()
    start = time.monotonic()
    print("| kind | equal | refused | different | accepted | open |\n|---|---|---|---|---|---|")
    for kind in options.kinds:
        tally = Tally(kind, options.algebra)
        share = -(-options.count // len(fast)) if fast else options.count
        for i in range(share if kind in fast else min(share, options.algebra // 2)):
            tally.add(f"{options.seed}-{kind}-{i}", Random(f"{options.seed}-{kind}-{i}"))
        print(_row(kind, tally.counts))
        total += tally.counts
    print(_row("all", total))
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    return int(total["equal wrong"] + total["different wrong"] > 0)


def _row(kind: str, counts: Counter[str]) -> str:
    undecided = counts["equal open"] + counts["different open"]
    names = ("equal", "equal wrong", "different", "different wrong")
    return (
        "| " + " | ".join([kind, *(f"{counts[name]:,}" for name in names), str(undecided)]) + " |"
    )


if __name__ == "__main__":
    sys.exit(main())
