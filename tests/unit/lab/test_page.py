"""The lab's page: every number by hand, missing values marked, and self-contained HTML.

The grid is 3 arms x 2 learning rates x 2 numbers of updates x 3 seeds. A cell has 20 training
steps: 10 at 0.2, then 10 at its own level, so that its final and best accuracy are that level.
"""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from html_pages import HOSTILE, ParsedPage, check_hostile

from sapo_vl.errors import DataError
from sapo_vl.lab import page, results
from sapo_vl.lab.results import GROUP, differences, estimates, labelled, load, over_seeds

SAPO = {
    "objective": "sapo", "updates": 4, "lr": 1e-4, "tau_pos": 1.0, "tau_neg": 1.05,
    "gate": "sigmoid",
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


def table_row(out, arm, updates, lr):
    lines = (out / "page.md").read_text().split("### Accuracy")[1].split("###")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    (row,) = [row for row in rows if row[:3] == [arm, updates, lr]]
    return dict(zip(rows[0], row, strict=True))


def test_mean_and_interval_by_hand(out):
    final = estimates(load(out).cells).xs("final", axis=1, level=1)
    sapo = final.loc["a", 4, 1e-4, "sapo"]
    # 0.4, 0.5, 0.6: mean 0.5, s = 0.1
    assert sapo["n"] == 3
    assert sapo["mean"] == pytest.approx(0.5)
    assert sapo["half"] == pytest.approx(T2 * 0.1 / math.sqrt(3), rel=1e-4)
    flat = final.loc["a", 4, 1e-4, "no gate"]
    assert (flat["mean"], flat["half"]) == (pytest.approx(0.3), pytest.approx(0))
    best = estimates(load(out).cells).xs("best", axis=1, level=1)
    assert best.loc[("a", 4, 1e-4, "sapo"), "mean"] == pytest.approx(0.5)


def test_interval_over_none_one_and_two_seeds():
    values = pd.DataFrame({"of": [0, 1, 2, 2], "x": [np.nan, 0.7, 0.0, 1.0]})
    got = over_seeds(values.groupby("of")["x"])
    assert got["n"].tolist() == [0, 1, 2]
    assert got["mean"].tolist()[1:] == [0.7, 0.5]
    # 0 and 1: s = sqrt(0.5), s / sqrt(2) = 0.5, t = 12.706 at 1 degree of freedom
    assert got["half"][2] == pytest.approx(6.353, rel=1e-4)
    assert got["half"][:2].isna().all()
    assert results.t_interval(values["x"][2:]) == (0.5, pytest.approx(6.353, rel=1e-4))


def test_final_and_best_windows():
    rising = pd.Series(range(12), dtype=float)
    assert results._reduce(rising, "final") == 6.5  # 2 to 11
    assert results._reduce(rising[::-1], "best") == 6.5
    for how in ("final", "best"):
        assert results._reduce(pd.Series([0.2, 0.4]), how) == pytest.approx(0.3)
        assert math.isnan(results._reduce(pd.Series([], dtype=float), how))


def test_difference_is_paired_by_seed(out):
    final = differences(load(out).cells).xs("final", axis=1, level=1)
    grpo = final.loc["a", 4, 1e-4, "grpo"]
    # 0.05, 0.01, 0.00: mean 0.02, s^2 = (0.0009 + 0.0001 + 0.0004) / 2 = 0.0007
    assert grpo["mean"] == pytest.approx(0.02)
    assert grpo["half"] == pytest.approx(T2 * math.sqrt(0.0007 / 3), rel=1e-4)
    one_seed = final.loc["a", 16, 3e-4, "grpo"]
    assert (one_seed["mean"], one_seed["n"]) == (pytest.approx(0.05), 1)
    assert math.isnan(one_seed["half"])
    assert ("a", 4, 1e-4, "sapo") not in final.index  # the reference itself


def test_an_arm_without_its_reference_has_no_difference(tmp_path):
    write_cell(tmp_path, "sapo", 1, 0.5)
    write_cell(tmp_path, "grpo", 1, 0.5, objective="grpo", updates=16)
    write_cell(tmp_path, "grpo", 1, 0.5, objective="grpo", grid="x")
    assert differences(load(tmp_path).cells).empty


def test_table_rows(out):
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


def test_page_needs_no_other_file(out):
    text = (out / "page.html").read_text()
    parsed = ParsedPage(text)
    assert parsed.tags.count("img") == 2
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "Lab <1>" in parsed.text
    assert "<b>NaN" in parsed.text
    assert len(text) < 3_000_000
    assert "objective (grpo, sapo)" in text
    assert "learning rate (1e-4, 3e-4)" in text
    assert "a-sapo-u64-seed9" in text  # started and not finished
    markdown = (out / "page.md").read_text()
    assert "](figures/a-accuracy.png)" in markdown
    assert (out / "figures" / "a-accuracy.png").exists()


def test_hostile_values_stay_text(tmp_path):
    write_cell(tmp_path, "sapo", 1, 0.5)
    path = write_cell(tmp_path, "other", 1, 0.5, objective="grpo", error="x")
    result = json.loads(path.read_text()) | {"error": HOSTILE}
    result["cell"] |= {"arm": HOSTILE, "name": HOSTILE}
    path.write_text(json.dumps(result))
    text = page.write(tmp_path, HOSTILE, {"a": HOSTILE}).read_text()
    # title and heading, grid's heading and its images' alt texts, cell's name and error, arm in
    # three tables
    check_hostile(text, 2 + 1 + 2 + 2 + 3)


def test_summary_and_csv(out):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cells"] == 34
    (grpo,) = [
        g for g in summary["groups"]
        if g["arm"] == "grpo" and (g["settings"]["updates"], g["settings"]["lr"]) == (4, 1e-4)
    ]  # fmt: skip
    assert grpo["measures"]["final"] == {"mean": 0.52, "low": 0.33245, "high": 0.70755, "n": 3}
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


def test_smoothing_skips_missing_values():
    rows = pd.DataFrame(
        {"cell": ["x"] * 4 + ["y"], "step": [1, 2, 3, 4, 1], "a": [0.0, np.nan, 0.3, 0.9, 1.0]}
    )
    got = results.smoothed(rows, "a", 3)
    assert got["step"].tolist() == [1, 3, 4, 1]
    assert got["a"].tolist() == pytest.approx([0.15, 0.4, 0.6, 1.0])
    assert results.smoothed(rows, "never recorded", 3).empty


def test_the_recorded_cells_give_the_published_accuracy_tables():
    """docs/lab/page.md was made from the unrounded results that docs/lab/cells.csv summarises."""
    recorded = pd.read_csv(
        ROOT / "docs" / "lab" / "cells.csv", keep_default_na=False, na_values=[""]
    )
    published = (ROOT / "docs" / "lab" / "page.md").read_text().splitlines()
    for _, cells in labelled(recorded).groupby("grid"):
        accuracy = page.grid_tables(cells)[0]
        rows = [line for line in accuracy.markdown() if line and "---" not in line]
        assert len(rows) == 1 + cells.groupby(GROUP).ngroups
        assert set(rows) <= set(published)


def test_broken_and_doubled_cells(tmp_path):
    with pytest.raises(DataError, match="no finished cell"):
        load(tmp_path)
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
            load(tmp_path)
        assert str(path) in str(problem.value)
    path.write_text(good)
    other = tmp_path / "cells" / "copy"
    other.mkdir()
    (other / "result.json").write_text(good)
    with pytest.raises(DataError, match="same setting and seed"):
        load(tmp_path)


def test_grid_in_which_nothing_was_recorded(tmp_path):
    for tau in (0.5, 0.95, 1.0, 1.05, 2.0):
        path = write_cell(tmp_path / f"{tau}", "sapo", 1, 0.5, grid="b", tau_neg=tau)
        result = {**json.loads(path.read_text()), "rows": [], "after": None, "error": "died"}
        moved = tmp_path / "cells" / f"b-{tau}-seed1" / "result.json"
        moved.parent.mkdir(parents=True)
        moved.write_text(json.dumps(result))
    text = page.write(tmp_path, "Lab", {"b": "temperatures"}).read_text()
    assert "<h2>Grid b: temperatures</h2>" in text
    assert ">–</td>" in text
    assert "τ− 2" in text


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.9651, 0.0012, "0.9651 ± 0.0012"),
        (49.13, 2.0, "49.1 ± 2.0"),
        (0.0000151, 0.000002, "1.5e-05 ± 2.0e-06"),
        (0.5, 1e-17, "0.5 ± 0"),
        (0.5, math.nan, "0.5"),
    ],
)
def test_values_are_rounded_to_their_uncertainty(mean, half, text):
    assert page.plain(mean, half) == text


def test_values_that_are_not_finite_are_missing():
    got = results._steps([{"step": 1, "a": 1}, {"step": 2, "a": None}, {"step": 3, "a": math.inf}])
    assert got["a"].tolist() == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)


def test_labels_and_order(tmp_path):
    for tau in (2.0, 0.5, 1.05):
        path = write_cell(tmp_path, f"sapo{tau}", 1, 0.5, tau_neg=tau)
        path.write_text(path.read_text().replace(f'"arm": "sapo{tau}"', '"arm": "sapo"'))
    assert load(tmp_path).cells["label"].tolist() == ["τ− 0.5", "τ− 1.05", "τ− 2"]
    write_cell(tmp_path, "grpo", 1, 0.5, objective="grpo")
    labels = load(tmp_path).cells["label"].tolist()
    assert labels == ["sapo, τ− 0.5", "sapo, τ− 1.05", "sapo, τ− 2", "grpo"]
