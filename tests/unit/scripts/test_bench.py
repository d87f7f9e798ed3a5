"""The benchmarks' arithmetic: operation counts, measurements, agreement checks and tables."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bench import learner, measure, needs, pace, real_size, report, step_ours, whole_step
from bench.cases import CASES, Case, build_model, build_rollouts, no_bans

from sapo_vl.model.assets import open_assets

CPU = torch.device("cpu")
SMALL = Case("small", group=3, image=4, prompt=12, mean=6, longest=9, vocabulary=512, prompts=2)


@pytest.fixture(scope="module")
def batch(assets):
    """Return model and rollouts of a small case."""
    assets = no_bans(assets)
    return build_model(assets, SMALL.vocabulary, 128, CPU), build_rollouts(SMALL, assets)


def test_lengths_are_spread_evenly_around_the_mean():
    assert SMALL.lengths() == [3, 6, 9]
    for case in CASES.values():
        assert np.mean(case.lengths()) == pytest.approx(case.mean, abs=0.5)
        assert max(case.lengths()) == case.longest


def test_prompts_have_one_image_and_the_requested_tokens(batch, assets):
    _, rollouts = batch
    assert len(rollouts) == 6
    for rollout in rollouts:
        ids = rollout.prompt.expanded_ids
        assert len(ids) == 12
        assert ids.count(assets.image_token_id) == 4
        assert rollout.prompt.grid_thw.tolist() == [[1, 4, 4]]
        assert rollout.prompt.position_ids.shape == (3, 12)
        assert rollout.prompt.next_position == 10  # 8 tokens of text, and the image's side of 2


def test_tokens_packed_and_padded(batch):
    _, rollouts = batch
    assert needs.tokens(rollouts) == (2 * (12 + 18), 6 * (12 + 9))


def test_needed_operations_by_hand(batch):
    model, rollouts = batch
    text = 6 * (256 * (256 + 128 + 128) + 256 * 256 + 3 * 256 * 768)  # multiply-adds of a token
    pairs = 2 * (12 * 13 / 2 + sum(12 * n + n * (n + 1) / 2 for n in (2, 5, 8)))
    attended = 6 * 4 * 64 * 2 * pairs
    head = 512 * 256 * 2 * 18
    blocks = 4 * (128 * 384 + 128 * 128 + 2 * 128 * 512)
    mergers = 4 * (512 * 512 + 512 * 256)
    embed = 16 * (3 * 2 * 8 * 8 * 128)
    picture = embed + 16 * blocks + 4 * mergers + 2 * 4 * 128 * 16**2
    expected = 2 * (3 * (54 * text + attended + head + 2 * picture) - 2 * embed)
    assert needs.flops(model, rollouts) == expected


def test_a_counted_product_and_attention():
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert measure.flops(lambda: a @ b)[0] == 2 * 3 * 5 * 7
    q, k = torch.rand(1, 2, 4, 8), torch.rand(1, 1, 6, 8)
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    assert measure.flops(lambda: attend(q, k, k))[0] == 2 * 2 * (4 * 8 * 6) * 2
    assert measure.flops(lambda: torch.rand(3, 7).addmm_(a, b))[0] == 2 * 3 * 5 * 7


def test_both_layouts_agree_and_sharing_saves_operations(batch, assets):
    from bench.variants import build

    model, rollouts = batch
    random = np.random.default_rng(0)
    for rollout in rollouts:
        rollout.old_logprobs = random.normal(-6, 0.5, len(rollout.token_ids)).astype(np.float32)
    variants = [build(n, model, no_bans(assets), SMALL, rollouts) for n in ("shared", "padded")]
    (shared, ours), (padded, theirs) = (measure.flops(c.run) for c in variants)
    norms = [c.grad_norm() for c in variants]
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert needs.flops(model, rollouts) <= shared < padded


@pytest.fixture(scope="module")
def hybrid(tiny_folders):
    """Return assets, model and rollouts of a small hybrid case, with old log-probs."""
    assets = no_bans(open_assets(tiny_folders("qwen3_5")))
    rollouts = build_rollouts(SMALL, assets)
    for rollout in rollouts:
        rollout.old_logprobs = np.full(len(rollout.token_ids), -6, np.float32)
    return assets, build_model(assets, SMALL.vocabulary, 128, CPU), rollouts


def test_needed_operations_of_a_hybrid_by_hand(hybrid):
    _, model, rollouts = hybrid
    network = 3 * 256 * 768
    delta = 256 * (3 * 256 + 256 + 2 * 2) + 256 * 256 + 4 * 3 * 256  # convolution of 4 taps
    rule = 2 * (2 * 64 * 128 + 64 * 128 + 64 * 128 + 3 * 128 * 128)  # two heads, chunks of 64
    attention = 256 * (2 * 256 + 128 + 128) + 256 * 256  # queries with their gates
    text = 3 * (delta + rule + network) + attention + network
    pairs = 2 * (12 * 13 / 2 + sum(12 * n + n * (n + 1) / 2 for n in (2, 5, 8)))
    attended = 4 * 64 * 2 * pairs  # of one layer
    head = 512 * 256 * 2 * 18
    blocks = 4 * (128 * 384 + 128 * 128 + 2 * 128 * 512)
    embed = 16 * (3 * 2 * 8 * 8 * 128)
    merger = 512 * 512 + 512 * 256
    picture = embed + 16 * blocks + 4 * merger + 2 * 4 * 128 * 16**2
    expected = 2 * (3 * (54 * text + attended + head + 2 * picture) - 2 * embed)
    assert needs.flops(model, rollouts) == expected


def test_both_layouts_of_a_hybrid_agree(hybrid):
    from bench.variants import build

    assets, model, rollouts = hybrid
    variants = [build(n, model, assets, SMALL, rollouts) for n in ("shared", "padded")]
    (shared, ours), (padded, theirs) = (measure.flops(c.run) for c in variants)
    norms = [c.grad_norm() for c in variants]
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert shared < padded


def test_disagreement_raises():
    learner._check({"shared": 1.0, "trl": 1.00001}, "losses", 2e-5)
    with pytest.raises(RuntimeError, match=r"losses differ: trl has 1\.001"):
        learner._check({"shared": 1.0, "trl": 1.001}, "losses", 2e-5)
    with pytest.raises(RuntimeError, match="losses differ"):
        learner._check({"shared": 1.0, "trl": float("nan")}, "losses", 2e-5)


def test_a_fork_returns_its_result_and_its_failure(capfd):
    assert measure.in_fork(lambda a, b: a + b, 1, 2) == 3

    def fails() -> None:
        raise ValueError("not this")

    with pytest.raises(RuntimeError, match="fails"):
        measure.in_fork(fails)
    assert "not this" in capfd.readouterr().err


def test_peak_memory_sees_what_is_freed_again():
    def work() -> None:
        np.ones(100_000_000, dtype=np.uint8).sum()

    assert measure.in_fork(measure.peak_memory, work, CPU) == pytest.approx(100, abs=15)


def test_timed_knows_sleep_from_work():
    seconds = measure.timed(lambda: time.sleep(0.05), CPU)
    assert seconds.wall >= 0.05
    assert seconds.busy < 0.04


class FakeEvent:
    """A CUDA event that happens 250 ms after the one before it."""

    count = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        FakeEvent.count += 1
        self.at = 250.0 * FakeEvent.count

    def elapsed_time(self, end) -> float:
        return end.at - self.at


@pytest.fixture
def fake_gpu(monkeypatch):
    """A GPU's figures without a GPU: events, allocator and name."""
    for name, value in {
        "Event": FakeEvent,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: 2_000_000_000,
        "max_memory_allocated": lambda: 5_500_000_000,
        "get_device_name": lambda device: "NVIDIA H100 80GB HBM3",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return torch.device("cuda", 0)


def test_a_gpu_is_timed_by_events_and_its_peak_is_the_allocator_s(fake_gpu):
    assert measure.timed(lambda: None, fake_gpu).busy == 0.25
    assert measure.peak_memory(lambda: None, fake_gpu) == 3500.0
    assert measure.isolated(lambda: os.getpid(), device=fake_gpu) == os.getpid()
    assert measure.isolated(lambda: os.getpid(), device=CPU) != os.getpid()


def test_the_rate_that_utilisation_is_measured_against(fake_gpu, monkeypatch):
    assert measure.peak_gflops(fake_gpu, None) == (989e3, "of the H100's data sheet")
    assert measure.peak_gflops(fake_gpu, 500.0) == (500e3, "given")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert measure.peak_gflops(fake_gpu, None)[0] == 756e3
    monkeypatch.setattr(measure, "gemm_rate", lambda device: 70.0)
    assert measure.peak_gflops(CPU, None) == (70.0, "of a GEMM")


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="torch finds no GPU"):
        measure.choose_device("cuda")
    assert measure.choose_device(None) == CPU


def test_nested_phases_do_not_count_in_the_outer_one(monkeypatch):
    now = [0.0]
    fake_time = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0] / 2)
    monkeypatch.setattr(pace, "time", fake_time)

    def passes(seconds: float) -> None:
        now[0] += seconds

    clock = pace.PhaseClock()
    inner = clock.phase("generate", lambda: passes(40))
    outer = clock.phase("prepare", lambda: (passes(20), inner(), passes(1)))
    passes(1000)
    clock.start()
    passes(30)
    outer()
    passes(3)
    assert clock.seconds() == {
        "wall": {"update": 33.0, "prepare": 21.0, "generate": 40.0},
        "cpu": {"update": 16.5, "prepare": 10.5, "generate": 20.0},
    }
    clock.start()
    assert clock.seconds()["wall"] == {"update": 0.0}


def test_the_coin_is_fair_and_fixed():
    flips = [pace.coin(str(i)) for i in range(1000)]
    assert flips == [pace.coin(str(i)) for i in range(1000)]
    assert 450 < sum(flips) < 550


def test_problems_come_in_order_and_each_once():
    sampler = step_ours.SequentialSampler(4)
    indices = [draw.index for step in (0, 1) for draw in sampler.step(step, 4 * step, 0, 1)]
    assert indices == list(range(8))
    assert [draw.index for draw in sampler.step(1, 4, rank=1, ranks=2)] == [5, 7]


def test_ratios_are_medians_of_rounds():
    variants = {
        "shared": {"busy": [1.0, 2.0, 1.0], "wall": [1.0, 1.0, 1.0]},
        "trl": {"busy": [3.0, 8.0, 2.0], "wall": [5.0, 6.0, 7.0]},
    }
    assert report.ratio({"variants": variants}, "trl", "busy") == 3.0
    assert report.ratio({"variants": variants}, "trl", "wall") == 6.0


def measured(seconds: float, flops: float | None, peak: float) -> dict:
    times = {"busy": [seconds], "wall": [seconds], "busy_median": seconds}
    return times | {"flops": flops, "peak_mb": peak, "loss": 0.5, "grad_norm": 1.0}


def results(ours: dict, theirs: dict, **machine: str) -> dict:
    case = {
        "variants": {"shared": ours, "trl": theirs},
        "tokens_packed": 100,
        "tokens_padded": 210,
        "flops_needed": 100e9,
    }
    figures = {"peak_gflops": 100.0, "peak_name": "of a GEMM", "cases": {"g8": case}}
    return figures | {"machine": machine}


def test_the_table_of_a_case():
    text = report.learner_tables(results(measured(2.0, 110e9, 500.0), measured(6.0, 300e9, 2000.0)))
    assert "| CPU time, its / ours |" in text
    assert "| needed, of the 100 GFLOP/s of a GEMM |" in text
    assert "| g8 | trl | 2.10 | 3.00 | 3.00 | >= 2.8 | 2000 / 500 MB = 4.0 |" in text
    assert "| g8 | 2.000 | 100 | 1.10 | 3.00 | 55 | 50 % |" in text


def test_the_table_of_a_case_on_a_gpu():
    """There performed operations are not counted: the rate is that of the needed ones."""
    ours, theirs = measured(2.0, None, 500.0), measured(6.0, None, 2000.0)
    text = report.learner_tables(results(ours, theirs, gpu="NVIDIA H100"))
    assert "| GPU time, its / ours |" in text
    assert "| g8 | 2.000 | 100 | - | - | 50 | 50 % |" in text
    assert (
        "  3.00 x   2000 MB               -  loss 0.5"
        in report.case_lines(CASES["g8"], results(ours, theirs)["cases"]["g8"])[1]
    )


def test_the_table_of_whole_steps_leaves_out_the_first():
    def step(update: float, generate: float) -> dict:
        seconds = {"update": update, "generate": generate}
        return {"wall": seconds, "cpu": seconds, "tokens": 100, "mean_length": 5.0, "updates": 4}

    text = whole_step.table(
        {"ours": [step(9, 9), step(1, 1), step(1, 1)], "trl": [step(9, 9), step(4, 2), step(4, 2)]}
    )
    assert "| update | 1.00 | 4.00 | 4.00 | 1.00 | 4.00 |" in text
    assert "| whole step | 2.00 | 6.00 | 3.00 | 2.00 | 6.00 |" in text
    assert "| generated tokens/s | 100 | 50 | 2.00 |  |  |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--cases", "g9"], "g9 is none of g4, g8"), (["--variants", "shared,x"], "x is none of")],
)
def test_unknown_names_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        learner.main(arguments)
    assert message in capsys.readouterr().err


def test_rows_at_real_size():
    arguments = real_size._parse(
        ["--shape", "Qwen3-VL-2B", "--budgets", "8192,16384", "--zero", "2,3"]
    )
    names = [way.name for way in real_size._ways(arguments)]
    assert names == [
        f"{variant}, {budget} tokens, checkpointing none{zero}"
        for budget in ("8,192", "16,384")
        for variant, zero in (
            ("shared", ", ZeRO-2"), ("shared", ", ZeRO-3"), ("padded", ", ZeRO-2"), ("trl", ""),
        )
    ]  # fmt: skip


def test_attention_forms_are_rows_of_ours_alone():
    arguments = real_size._parse(
        ["--shape", "Qwen3-VL-2B", "--budgets", "64", "--attention", "flex,varlen"]
    )
    names = [way.name.split(", ") for way in real_size._ways(arguments)]
    assert [(name[0], name[-1]) for name in names] == [
        ("shared", "flex"),
        ("shared", "varlen"),
        ("padded", "ZeRO-2"),
        ("trl", "checkpointing none"),
    ]


def test_a_peer_s_time_is_relative_to_ours_with_the_same_budget():
    def row(name: str, seconds: float) -> dict:
        return {"what": name, "figures": {"forward and backward s": seconds}}

    names = [real_size.Way("shared", n, "none", 2, "flex").name for n in (64, 128)]
    rows = {name: row(name, s) for name, s in zip(names, (2.0, 9.0), strict=True)}
    trl = row("trl", 7.0)
    real_size._compare(rows, real_size.Way("trl", 64, "none", 2), trl)
    assert trl["figures"]["time, its / ours"] == 3.5
    lost = {"figures": {}}
    real_size._compare(rows, real_size.Way("padded", 64, "none", 2), lost)
    assert lost == {"figures": {}}


def test_needed_operations_of_a_frozen_tower(batch):
    """The tower's backward pass, two thirds of its products, is not needed."""
    model, rollouts = batch
    prompts = list({id(r.prompt): r.prompt for r in rollouts}.values())
    vision = sum(needs._vision_forward(model, prompt) for prompt in prompts)
    embed = 16 * (3 * 2 * 8 * 8 * 128)
    saved = 2 * (2 * vision - 2 * embed)
    frozen = needs.flops(model, rollouts, vision_trained=False)
    assert needs.flops(model, rollouts) - frozen == saved


@pytest.mark.slow
def test_a_table_at_a_small_size(capsys, monkeypatch, tmp_path):
    """ZeRO-2 and the padded layout on the four-layer model; TRL is not installed here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = "--shape four-layers --device cpu --budgets 64 --prompts 1 --group 2 --response 4"
    out = tmp_path / "out.json"
    real_size.main([*arguments.split(), "--image", "4", "--repeats", "1", "--json", str(out)])
    table = capsys.readouterr().out
    assert "1 prompts of 94 tokens, 2 responses of 2 to 6: 102 tokens packed, 200 padded" in table
    rows = json.loads(out.read_text())["rows"]
    assert [row["what"].split(",")[0] for row in rows] == ["shared", "padded", "trl"]
    shared, padded = (row["figures"] for row in rows[:2])
    for figures in (shared, padded):
        assert figures["packed tokens/s"] == pytest.approx(102 / figures["forward and backward s"])
        assert 0 < figures["utilisation %"] < 100
    times = [figures["forward and backward s"] for figures in (shared, padded)]
    assert padded["time, its / ours"] == times[1] / times[0]
    assert f"| {padded['time, its / ours']:.2f} |" in table
