"""docs/recipes.md has every shipped recipe, with the figures of its comment."""

from __future__ import annotations

import re

from helpers import ROOT

CONFIGS = sorted((ROOT / "configs" / "train").glob("*.yaml"))
ON_CPU = {"main", "main_qwen3_5", "smoke"}

COMMENT = re.compile(
    r"# Hardware: (?P<count>\d) GPUs? of (?P<size>\d+) GB.*?"
    r"per GPU (?P<sampling>[\d.]+) GiB while sampling, (?P<update>[\d.]+) in the update,.*?"
    r"host (?P<host>\d+) GiB; a checkpoint (?P<checkpoint>\d+) GiB",
    re.S,
)


def planned(text: str) -> dict[str, str]:
    """Return the figures of a recipe's comment."""
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    match = COMMENT.search("# " + comment.replace("Hardware:", "# Hardware:"))
    assert match is not None, text
    return match.groupdict()


def test_every_recipe_is_in_the_table_with_its_figures():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in row.split("|")] for row in re.findall(r"^\| (.*) \|$", page, re.M)
    ]
    table = {row[2].strip("`"): row for row in rows if len(row) == 7}
    assert {path.stem for path in CONFIGS} - ON_CPU == table.keys() - {"recipe", "main"}
    for path in CONFIGS:
        assert f"--config {path.stem}" in page or path.stem == "main"
        if path.stem not in ON_CPU:
            found = planned(path.read_text(encoding="utf-8"))
            row = table[path.stem]
            assert row[0] == f"{found['count']} x {found['size']} GB"
            figures = [
                f"{found['sampling']} / {found['update']}",
                found["host"],
                found["checkpoint"],
            ]
            assert row[4:] == figures, f"the comment of {path.name} says {figures}"
