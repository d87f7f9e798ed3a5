"""We-Math's metrics over whole groups: sub-steps and their composite ("multi") problem.

With all, any or none of a group's sub-steps right, and the composite right or wrong:

    composite wrong: IK (insufficient knowledge) when a sub-step is wrong, IG (inadequate
                     generalisation) when all are right
    composite right: strict: CM (complete mastery) when all sub-steps are right, else RM (rote
                     memorisation); loose: RM only when all sub-steps are wrong, else CM

IK, IG and CM are shares of all groups, RM is RM / (CM + RM). The score is
1 - 0.5 IG - RM - IK with all four as shares of the groups, which is CM + 0.5 IG.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sapo_vl.evaluation.benchmarks.accuracy import cell

_KEY = re.compile(r"([23])steps_(\d|multi)")
_GROUPS = {f"{n}steps_multi": [f"{n}steps_{i}" for i in range(1, n + 1)] for n in (2, 3)}


def summary(rows: Sequence[tuple[str, str, bool]]) -> dict[str, Any]:
    """Return the metrics of (group@sample, key, correct) triples.

    Keys are "2steps_1", "3steps_multi" and so on. A group without a composite or without all its
    sub-steps is left out and counted.
    """
    groups: dict[str, dict[str, bool]] = defaultdict(dict)
    steps: dict[str, list[tuple[str, bool | None]]] = defaultdict(list)
    for group, key, correct in rows:
        groups[group][key] = correct
        if match := _KEY.fullmatch(key):
            name = f"S{match[1]}" if match[2] == "multi" else "S1"
            problem = group.rpartition("@")[0] or group
            steps[name].append((f"{problem} {key}", correct))
    whole = [
        ([parts[step] for step in names], parts[composite])
        for parts in groups.values()
        for composite, names in _GROUPS.items()
        if parts.keys() == {composite, *names}
    ]
    return {
        "steps": {name: cell(values) for name, values in sorted(steps.items())},
        "strict": _dimensions(whole, loose=False),
        "loose": _dimensions(whole, loose=True),
        "groups": len(whole),
        "incomplete_groups": len(groups) - len(whole),
    }


def _dimensions(groups: Sequence[tuple[list[bool], bool]], *, loose: bool) -> dict[str, Any]:
    count = dict.fromkeys(("IK", "IG", "CM", "RM"), 0)
    for parts, composite in groups:
        if not composite:
            count["IG" if all(parts) else "IK"] += 1
        else:
            mastered = any(parts) if loose else all(parts)
            count["CM" if mastered else "RM"] += 1
    total = len(groups)
    right = count["CM"] + count["RM"]
    shares = {name: count[name] / total if total else None for name in ("IK", "IG", "CM")}
    lost = 0.5 * count["IG"] + count["RM"] + count["IK"]
    return {
        **shares,
        "RM": count["RM"] / right if right else None,
        "score": (total - lost) / total if total else None,
        "counts": count,
    }
