"""The laboratory's page: every number by hand, missing ones marked, and no file but itself.

The grid is 3 arms x 2 learning rates x 2 numbers of updates x 3 seeds. A cell has 20 training
steps: 10 at 0.2, then 10 at its own level, so that its final and best accuracy are that level.
"""

from __future__ import annotations

import csv
import json
import math
from html.parser import HTMLParser

import pytest

from sapo_vl.errors import DataError
from sapo_vl.lab import page, results
from sapo_vl.lab.facets import arm_label, facets, layout

SAPO = {
    "objective": "sapo", "updates": 4, "lr": 1e-4, "clip": 0.0, "tau_pos": 1.0, "tau_neg": 1.05,
    "gate": "sigmoid", "mismatch": "none", "correction": True, "experts": 0,
}  # fmt: skip
LEVELS = {"sapo": (0.40, 0.50, 0.60), "grpo": (0.45, 0.51, 0.60), "no gate": (0.30, 0.30, 0.30)}
ARMS = {"sapo": {}, "grpo": {"objective": "grpo"}, "no gate": {"gate": "none"}}
T2 = 4.303  # Student's t, 97.5 %, 2 degrees of freedom


def write_cell(out, arm, seed, level, *, grid="a", alarm=None, after=None, error=None, **settings):
    rows = []
    for step in range(1, 21):
        row = {"step": step, "accuracy": 0.2 if step <= 10 else level, "entropy": None}
        if settings.get("objective", "sapo") == "sapo":
            row |= {"gate/mean": 0.9, "gate/p01": 0.5, "gate/below_0.5_pos": 0.01}
            row |= {"gate/max_wr_neg": 1.0 + 0.1 * (step == 7), "ratio/ess": 0.5 + 0.02 * step}
        rows.append(row)
    settings = {**SAPO, **settings}
    name = f"{grid}-{arm}-u{settings['updates']}-lr{settings['lr']:g}-seed{seed}"
    folder = out / "cells" / name
    folder.mkdir(parents=True)
    cell = {"name": name, "grid": grid, "arm": arm, "settings": settings, "seed": seed}
    result = {
        "cell": cell, "seconds": 36.0, "before": 0.25, "after": level if after is None else after,
        "error": error, "alarm": alarm, "rows": rows,
    }  # fmt: skip
    if error:
        result["after"] = None
    (folder / "result.json").write_text(json.dumps(result))
    return folder / "result.json"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("lab")
    for lr in (1e-4, 3e-4):
        for updates in (4, 16):
            for arm, levels in LEVELS.items():
                for seed, level in enumerate(levels, start=1):
                    place = {"lr": lr, "updates": updates, **ARMS[arm]}
                    hard = arm == "no gate" and updates == 16 and lr == 3e-4
                    if hard and seed == 1:
                        alarm = {"rule": "entropy", "step": 13, "message": "fell"}
                        write_cell(out, arm, seed, level, alarm=alarm, **place)
                    elif hard and seed == 2:
                        write_cell(out, arm, seed, level, error="<b>NaN</b>\nmore", **place)
                    elif arm != "grpo" or updates == 4 or lr == 1e-4 or seed == 1:
                        write_cell(out, arm, seed, level, **place)
    (out / "cells" / "a-sapo-u64-seed9").mkdir()
    page.write(out, "Lab <1>")
    return out


def pick(groups, arm, updates=4, lr=1e-4):
    (found,) = [
        g for g in groups
        if g.arm == arm and (g.settings["updates"], g.settings["lr"]) == (updates, lr)
    ]  # fmt: skip
    return found


def table_row(out, arm, updates, lr):
    lines = (out / "page.md").read_text().split("### Accuracy")[1].split("###")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    (row,) = [row for row in rows if row[:3] == [arm, updates, lr]]
    return dict(zip(rows[0], row, strict=True))


def test_mean_and_interval_by_hand(out):
    groups = results.group(results.load(out))
    got = pick(groups, "sapo").estimate("final")
    # 0.4, 0.5, 0.6: mean 0.5, s = 0.1
    assert got.n == 3
    assert got.mean == pytest.approx(0.5)
    assert got.half == pytest.approx(T2 * 0.1 / math.sqrt(3))
    assert pick(groups, "sapo").estimate("best").mean == pytest.approx(0.5)
    flat = pick(groups, "no gate").estimate("final")
    assert (flat.mean, flat.half) == (pytest.approx(0.3), pytest.approx(0))


def test_estimate_of_none_one_and_many():
    assert results.estimate([]) is None
    assert results.estimate([0.7]) == results.Estimate(0.7, None, 1)
    # 0 and 1: s = sqrt(0.5), s / sqrt(2) = 0.5, t = 12.706 at 1 degree
    assert results.estimate([0.0, 1.0]).half == pytest.approx(6.353)
    many = results.estimate([0.0, 1.0] * 50)  # t of 30 degrees
    assert many.half == pytest.approx(2.042 * math.sqrt(25 / 99 / 100))


def test_final_and_best_windows():
    rising = [float(value) for value in range(12)]
    assert results.final(rising) == 6.5  # 2 to 11
    assert results.best(rising[::-1]) == 6.5
    assert results.final([0.2, 0.4]) == results.best([0.2, 0.4]) == pytest.approx(0.3)


def test_difference_is_paired_by_seed(out):
    groups = results.group(results.load(out))
    grpo, sapo = pick(groups, "grpo"), pick(groups, "sapo")
    assert results.reference_of(grpo, groups) is sapo
    assert results.reference_of(sapo, groups) is sapo
    got = results.difference(grpo, sapo, "final")
    # 0.05, 0.01, 0.00: mean 0.02, s^2 = (0.0009 + 0.0001 + 0.0004) / 2 = 0.0007
    assert got.mean == pytest.approx(0.02)
    assert got.half == pytest.approx(T2 * math.sqrt(0.0007 / 3))
    alone = pick(groups, "grpo", 16, 3e-4)
    paired = results.difference(alone, pick(groups, "sapo", 16, 3e-4), "final")
    assert paired == results.Estimate(pytest.approx(0.05), None, 1)


def test_reference_undoes_one_change(tmp_path):
    write_cell(tmp_path, "sapo", 1, 0.5, grid="c")
    write_cell(tmp_path, "b", 1, 0.5, grid="c", mismatch="float8")
    write_cell(tmp_path, "c", 1, 0.5, grid="c", mismatch="float8", correction=False)
    write_cell(tmp_path, "d", 1, 0.5, grid="c", objective="grpo", mismatch="float8")
    write_cell(tmp_path, "e", 1, 0.5, grid="c", objective="grpo", updates=16)
    write_cell(tmp_path, "f", 1, 0.5, grid="x", objective="grpo")
    groups = results.group(results.load(tmp_path))
    base = {g.arm: results.reference_of(g, groups) for g in groups}
    assert {arm: g and g.arm for arm, g in base.items()} == {
        "sapo": "sapo", "b": "sapo", "c": "b", "d": "b", "e": None, "f": None,
    }  # fmt: skip


def test_table_says_the_same(out):
    row = table_row(out, "grpo", "4", "1e-4")
    # s of 0.45, 0.51, 0.60: variance (0.0049 + 0.0001 + 0.0064) / 2 = 0.0057, half = 0.18756
    assert row["final"] == "52.0 ± 18.8 %"
    assert row["held-out before"] == "25.0 ± 0.0 %"
    assert row["compared with"] == "sapo"
    assert row["final, difference"] == "+2.0 ± 6.6"
    assert table_row(out, "sapo", "4", "1e-4")["compared with"] == "reference"


def test_divergence_errors_and_missing_values(out):
    row = table_row(out, "no gate", "16", "3e-4")
    assert row["steps before divergence"] == "13 (entropy), none, none"
    assert row["held-out after"] == "30.0 ± 0.0 % (n = 2)"
    text = (out / "page.md").read_text()
    assert "no gate-u16-lr0.0003-seed2: <b>NaN</b>." in text
    gate = text.split("### Gate")[1].splitlines()
    grpo = next(line for line in gate if line.startswith("| grpo | 4 | 1e-4"))
    assert set(grpo.split("|")[5:-1]) == {" – "}
    sapo = next(line for line in gate if line.startswith("| sapo | 4 | 1e-4"))
    assert "1.1 ± 0" in sapo  # the largest w*r of any step
    assert "final entropy" not in text  # nowhere recorded


def test_one_seed_is_marked(out):
    row = table_row(out, "grpo", "16", "3e-4")
    assert row["seeds"] == "1 (one seed: not a result)"
    assert row["final"] == "45.0 %"
    assert row["final, difference"] == "+5.0 (one seed: not a result)"
    assert (out / "page.html").read_text().count("1 (one seed: not a result)") >= 2


class Tags(HTMLParser):
    """Checks that tags are closed in order and collects what they refer to."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.seen = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_needs_no_other_file(out):
    text = (out / "page.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.seen.count("img") == 2
    assert all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert "http" not in text.replace("data:image", "")
    assert "Lab &lt;1&gt;" in text
    assert "<b>NaN" not in text
    assert len(text) < 3_000_000
    assert "objective (grpo, sapo)" in text
    assert "learning rate (1e-4, 3e-4)" in text
    assert "a-sapo-u64-seed9" in text  # begun and not finished
    markdown = (out / "page.md").read_text()
    assert "](figures/a-accuracy.png)" in markdown
    assert (out / "figures" / "a-accuracy.png").exists()


def test_summary_and_csv(out):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cells"] == 34
    groups = summary["groups"]
    (grpo,) = [
        g for g in groups
        if g["arm"] == "grpo" and (g["settings"]["updates"], g["settings"]["lr"]) == (4, 1e-4)
    ]  # fmt: skip
    assert grpo["measures"]["final"] == {"mean": 0.52, "low": 0.33244, "high": 0.70756, "n": 3}
    assert grpo["difference"]["reference"]["arm"] == "sapo"
    assert grpo["difference"]["final"]["mean"] == 0.02
    line = grpo["curves"]["accuracy"]
    assert line["step"] == list(range(1, 21))
    assert (line["mean"][0], line["low"][0], line["mean"][19]) == (0.2, 0.2, 0.52)
    assert "entropy" not in grpo["curves"]
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 34
    (first,) = [row for row in rows if row["name"] == "a-sapo-u4-lr0.0001-seed2"]
    assert (first["final"], first["seed"], first["steps"]) == ("0.5", "2", "20")
    assert (first["alarm_step"], first["entropy_final"]) == ("", "")


def test_curve_over_seeds_of_different_length():
    def cell(seed, values):
        rows = [{"step": n, "accuracy": value} for n, value in enumerate(values, start=1)]
        return results.Cell("n", "a", "sapo", SAPO, seed, rows, None, None, 1.0, None, None, None)

    line = results.curve([cell(1, [0.0, None, 0.6]), cell(2, [1.0, 0.4])], "accuracy")
    assert (line.steps, line.mean, line.n) == ([1, 2, 3], [0.5, 0.4, 0.6], [2, 1, 1])
    assert line.low == [pytest.approx(0.5 - 6.353), None, None]
    smooth = results.curve([cell(1, [0.0, 0.3, 0.9])], "accuracy", 3)
    assert smooth.mean == pytest.approx([0.15, 0.4, 0.6])


def test_broken_and_doubled_cells(tmp_path):
    with pytest.raises(DataError, match="no finished cell"):
        results.load(tmp_path)
    path = write_cell(tmp_path, "sapo", 1, 0.5)
    good = path.read_text()
    for text, words in (
        (good[:50], "not a cell's result"),
        ("[]", "not a cell's result"),
        (good.replace('"rows"', '"lines"'), "lacks 'rows'"),
        (good.replace('"step": 3,', '"step": null,'), "not a cell's result"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words) as problem:
            results.load(tmp_path)
        assert str(path) in str(problem.value)
    path.write_text(good)
    other = tmp_path / "cells" / "copy"
    other.mkdir()
    (other / "result.json").write_text(good)
    with pytest.raises(DataError, match="same setting and seed 1"):
        results.load(tmp_path)


def test_grid_in_which_nothing_was_recorded(tmp_path):
    for tau in (0.5, 0.95, 1.0, 1.05, 2.0):
        path = write_cell(tmp_path / f"{tau}", "sapo", 1, 0.5, grid="b", tau_neg=tau)
        result = {**json.loads(path.read_text()), "rows": [], "after": None, "error": "died"}
        moved = tmp_path / "cells" / f"b-{tau}-seed1" / "result.json"
        moved.parent.mkdir(parents=True)
        moved.write_text(json.dumps(result))
    text = page.write(tmp_path, "Lab", {"b": "temperatures"}).read_text()
    assert "<h2>Grid b: temperatures</h2>" in text
    assert "<td>–</td>" in text
    assert "τ− 2" in text


def test_figures_are_written_to_their_uncertainty(out):
    member = pick(results.group(results.load(out)), "sapo")
    for value, text in (
        (results.Estimate(0.9651, 0.0012, 3), "0.9651 ± 0.0012"),
        (results.Estimate(49.13, 2.0, 3), "49.1 ± 2.0"),
        (results.Estimate(0.0000151, 0.000002, 3), "1.5e-05 ± 2.0e-06"),
        (results.Estimate(0.5, 1e-17, 3), "0.5 ± 0"),
        (results.Estimate(0.5, None, 1), "0.5 (n = 1)"),
        (None, "–"),
    ):
        assert page.plain(value, member) == text


def test_values_that_are_no_numbers_are_missing():
    assert [results.number(v) for v in (1, 0.5, None, True, "1", math.nan, math.inf)] == [
        1.0, 0.5, None, None, None, None, None,
    ]  # fmt: skip


def test_facets():
    grid = [{**SAPO, "lr": lr, "updates": u} for lr in (1e-4, 3e-4) for u in (4, 16)]
    both = [{**one, "objective": name} for one in grid for name in ("sapo", "grpo")]
    chosen = facets(both)
    assert (chosen.row, chosen.column, chosen.color) == ("lr", "updates", ("objective",))
    assert not chosen.by_arm
    mismatch = [{**SAPO, "mismatch": m, "correction": c} for m in ("none", "x") for c in (0, 1)]
    chosen = facets(mismatch)
    assert (chosen.row, chosen.column) == (None, None)
    assert chosen.color == ("mismatch", "correction")
    taus = facets([{**SAPO, "tau_neg": tau} for tau in (0.5, 0.95, 1.0, 1.05, 2.0)])
    assert taus.color == ("tau_neg",)
    assert taus.by_arm


def test_labels_and_order(tmp_path):
    for tau in (2.0, 0.5, 1.05):
        write_cell(tmp_path / f"{tau}", "sapo", 1, 0.5, tau_neg=tau)
    groups = [
        g for tau in (2.0, 0.5, 1.05) for g in results.group(results.load(tmp_path / f"{tau}"))
    ]
    plan = layout(groups)
    assert plan.arms == ["τ− 0.5", "τ− 1.05", "τ− 2"]
    assert arm_label(groups[0], groups, plan.facets) == "τ− 2"
    assert page.divergence(groups[0]) == "none"
