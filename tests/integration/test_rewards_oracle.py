"""The verifiers against labelled pairs from other projects, with the gates they must pass.

    python -m pytest tests/integration/test_rewards_oracle.py -s      (prints the tables)

Skipped without the labelled sets in ../shared/oracle beside the repository. Rows whose label
depends on a convention (`policy`, or no label) are excluded. Each figure is also printed for two
random halves of the rows: a rule that was fitted to single rows would show as a difference.
"""

import argparse
import gzip
import hashlib
import json
from collections import defaultdict

import pytest
from helpers import SHARED

pytest.importorskip("math_verify")
from sapo_vl.cli import verify

ORACLE = SHARED / "oracle"
PAIRS = SHARED / "cases" / "pairs.jsonl"
MCQ = ("mcq", "mcq_multi")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ORACLE.is_dir(), reason="needs ../shared/oracle"),
]


def read(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def verified(path, folder):
    """Run the command over a labelled set; return its rows with the verdicts added."""
    out = folder / f"{path.name}.out.jsonl"
    verify.run(
        argparse.Namespace(
            input=path, out=out, workers=2, deadline=2.0, judge=None, judge_model=None
        )
    )
    rows = read(path)
    for row, verdict in zip(rows, read(out), strict=True):
        assert row["id"] == verdict["id"]
        row |= {key: verdict[key] for key in ("outcome", "seconds", "reason")}
        row["half"] = hashlib.sha256(row["id"].encode()).digest()[0] % 2
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = verified(ORACLE / "equivalence.jsonl.gz", tmp_path_factory.mktemp("pairs"))
    return [row for row in rows if not row.get("policy")]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    rows = verified(ORACLE / "adversarial.jsonl", tmp_path_factory.mktemp("hostile"))
    return [row for row in rows if row["expected_equal"] is not None]


def rates(rows):
    """Return accuracy, false positive and false negative rate in percent, and the counts."""
    positives = [row for row in rows if row["expected_equal"]]
    negatives = [row for row in rows if not row["expected_equal"]]
    missed = sum(row["outcome"] != "correct" for row in positives)
    wrong = sum(row["outcome"] == "correct" for row in negatives)
    return {
        "accuracy": 100 * (1 - (missed + wrong) / max(1, len(rows))),
        "fpr": 100 * wrong / max(1, len(negatives)),
        "fnr": 100 * missed / max(1, len(positives)),
        "wrong accepts": wrong,
        "wrong refusals": missed,
    }


def show(title, rows):
    """Print one line: all rows, then the two halves."""
    cells = []
    for part in (rows, [r for r in rows if r["half"] == 0], [r for r in rows if r["half"] == 1]):
        x = rates(part)
        cells.append(f"{len(part):5d} {x['accuracy']:6.2f} {x['fpr']:5.2f} {x['fnr']:6.2f}")
    print(f"{title:45s} " + " | ".join(cells))
    return rates(rows)


def test_gates_on_labelled_pairs(pairs):
    maths = [r for r in pairs if r["mode"] not in MCQ]
    mcq = [r for r in pairs if r["mode"] in MCQ]
    bare = [r for r in maths if r["mode"].startswith("answer") and r["tier"] in "HA"]
    responses = [r for r in maths if r["mode"] == "response"]
    boxed = [r for r in responses if "\\boxed" in r["response_or_answer"]]
    print(f"\n{'rows, accuracy, FPR, FNR in %':45s} all | half 0 | half 1")
    all_maths = show("maths", maths)
    bare_rates = show("bare answers, tiers H and A", bare)
    boxed_rates = show("responses with a box", boxed)
    show("responses without a box", [r for r in responses if r not in boxed])
    all_mcq = show("multiple choice", mcq)
    vista = show("multiple choice, mathvista", [r for r in mcq if r["source"].startswith("mathv")])
    logic = show("multiple choice, logicvista", [r for r in mcq if r["source"].startswith("logi")])
    by_source = defaultdict(list)
    for row in pairs:
        by_source[row["source"], row["tier"], "mcq" if row["mode"] in MCQ else "maths"].append(row)
    for key, rows in sorted(by_source.items()):
        show(" ".join(key), rows)
    assert all_maths["fpr"] <= 0.1
    assert all_maths["fnr"] <= 2
    assert bare_rates["fnr"] <= 8
    assert boxed_rates["accuracy"] >= 99.8
    assert all_mcq["accuracy"] >= 95
    assert vista["accuracy"] >= 95
    assert logic["accuracy"] >= 82  # docs/verifiers.md says what the others need


def test_gates_on_hostile_rows(hostile):
    print()
    found = show("adversarial", hostile)
    by_category = defaultdict(list)
    for row in hostile:
        by_category[row["category"]].append(row)
    for key, rows in sorted(by_category.items()):
        show(key, rows)
    for row in hostile:
        right = "correct" if row["expected_equal"] else "wrong"
        if row["outcome"] not in (right, "no_verdict"):
            print("  ", row["id"], row["category"], row["outcome"], row["reason"])
    assert found["wrong accepts"] == 0
    assert found["wrong refusals"] <= 2
    silent = [r for r in hostile if r["outcome"] == "no_verdict" and r["category"] != "hang"]
    assert not silent, [(r["id"], r["reason"]) for r in silent]


@pytest.mark.skipif(not PAIRS.is_file(), reason="needs ../shared/cases/pairs.jsonl")
def test_gates_on_pairs_made_to_find_faults(tmp_path):
    rows = verified(PAIRS, tmp_path)
    print()
    found = show("pairs made to find faults", rows)
    for row in rows:
        if (row["outcome"] == "correct") is not row["expected_equal"]:
            print("  ", row["id"], row["kind"], row["outcome"], row["reason"])
    assert found["fpr"] <= 2
    assert found["fnr"] <= 8
