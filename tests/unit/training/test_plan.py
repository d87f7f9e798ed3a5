"""The planner's arithmetic by hand, against published shapes, and what it proposes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
from helpers import ROOT, one_line

from sapo_vl.config import Config, load
from sapo_vl.errors import ConfigError
from sapo_vl.training.plan import fit, hardware
from sapo_vl.training.plan.activations import Row, layer_saved
from sapo_vl.training.plan.engine import engine_memory, kv_bytes_per_token
from sapo_vl.training.plan.fit import changes_that_fit, make_plan, with_values
from sapo_vl.training.plan.hardware import GIB, assumed, cpu, gpus
from sapo_vl.training.plan.host import disk, host_memory
from sapo_vl.training.plan.learner import learner_states
from sapo_vl.training.plan.limits import check_capacity
from sapo_vl.training.plan.meta import module_on_meta
from sapo_vl.training.plan.seconds import forward_operations, step_seconds, vision_operations
from sapo_vl.training.plan.shape import ModelShape, model_shape
from sapo_vl.training.plan.show import planned_hardware, show
from sapo_vl.training.plan.tables import summary
from sapo_vl.training.plan.workload import workload

SIZES = ("Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B", "Qwen3-VL-30B-A3B")
FILES = sorted(ROOT.glob("configs/train/qwen*.yaml"))


def config(*keys: str) -> Config:
    return load(None, list(keys))


@cache
def shape_of(size: str) -> ModelShape:
    """Return a published size with a frozen vision tower; `tiny` too."""
    return model_shape(module_on_meta(config(f"model.path={size}", "model.freeze=[vision]"))[0])


@pytest.mark.parametrize(
    ("size", "billions", "tensors", "kv", "group"),
    [
        ("Qwen3-VL-2B", (0.306, 0.101, 1.721, 2.128), 625, 114_688, 0.70),
        ("Qwen3-VL-4B", (0.306, 0.109, 4.022, 4.438), 713, 147_456, 0.87),
        ("Qwen3-VL-8B", (0.416, 0.160, 8.191, 8.767), 750, 147_456, 1.52),
        ("Qwen3-VL-30B-A3B", (0.416, 0.123, 30.532, 31.071), 882, 98_304, 2.30),
    ],
)
def test_published_shapes(size, billions, tensors, kv, group):
    """Parameters of vision, merger, language and all; bytes in bfloat16."""
    shape = shape_of(size)
    assert [round(total / 1e9, 3) for _, total, _ in shape.rows] == list(billions)
    assert shape.tensors == tensors
    assert kv_bytes_per_token(shape, config()) == kv
    assert shape.largest_group * 2 / GIB == pytest.approx(group, abs=0.005)


def test_the_experts_that_a_token_does_not_use_are_not_active():
    shape = shape_of("Qwen3-VL-30B-A3B")
    layer = shape.layers[0]
    assert (layer.experts, layer.chosen, layer.ffn) == (128, 8, 768)
    assert layer.parameters - layer.active == 120 * 3 * 768 * 2048
    assert (shape.body + 2 * shape.head) / 1e9 == pytest.approx(3.3, abs=0.1)  # the 3B of A3B


def test_states_by_hand():
    shape = replace(shape_of("tiny"), rows=(("all", 80, 40),))

    def states(ranks: int, *keys: str) -> list[float]:
        s = learner_states(shape, config(*keys), ranks)
        return [s.weights, s.gradients, s.optimizer, s.host]

    half, full = "model.dtype=bfloat16", "model.dtype=float32"
    assert states(8, half, "learner.zero_stage=0") == [160, 80, 480, 0]
    assert states(8, half, "learner.zero_stage=1") == [160, 80, 60, 0]
    assert states(8, half, "learner.zero_stage=2") == [160, 10, 60, 0]
    assert states(8, half, "learner.zero_stage=3") == [20, 10, 60, 0]
    wide = "learner.grad_accum_dtype=float32"
    assert states(8, half, "learner.zero_stage=2", wide) == [160, 20, 60, 0]
    assert states(8, full, "learner.zero_stage=0") == [320, 160, 320, 0]
    assert states(8, full, "learner.zero_stage=2") == [320, 20, 60, 0]  # DeepSpeed copies weights
    off = "learner.offload_optimizer=true"
    assert states(1, half, "learner.zero_stage=2", off) == [160, 0, 0, 20 * 40]
    assert states(1, half, "learner.zero_stage=3", off) == [160, 0, 0, 18 * 40]
    parameters = "learner.offload_parameters=true"
    assert states(2, half, "learner.zero_stage=3", off, parameters) == [0, 0, 0, 18 * 20 + 80]


def test_what_is_moved_while_sampling_by_hand():
    shape, keys = shape_of("Qwen3-VL-2B"), ["learner.offload_while_sampling=true"]
    made = {stage: config(*keys, f"learner.zero_stage={stage}") for stage in (2, 3)}
    second, third = (learner_states(shape, made[stage], 2) for stage in (2, 3))
    assert second.moved == second.host == 12 * shape.trained / 2
    assert third.moved == 12 * shape.trained / 2 + 2 * shape.trained / 2 + 10**9  # and the bucket
    plan, stays = (
        make_plan(c, shape, gpus(80, 2)) for c in (made[3], config("learner.zero_stage=3"))
    )
    sampling, update = plan.phases[0], plan.phases[1]
    assert "optimizer" not in sampling.parts
    assert update.parts == stays.phases[1].parts
    assert stays.phases[0].total - sampling.total == pytest.approx(third.moved)
    assert plan.host.states == 2 * third.moved
    longer = plan.seconds.total - stays.seconds.total
    assert longer == pytest.approx(2 * third.moved / 25e9)  # out and back


def test_a_frozen_base_and_the_engine_take_turns_by_hand():
    shape = replace(shape_of("tiny"), rows=(("all", 8 * 10**9, 10**8),))
    rank, away = "model.lora.rank=32", "learner.offload_while_sampling=true"
    base, moved = 2 * 7.9e9, 12 * 1e8
    one = learner_states(shape, config(rank, away), 1)
    assert (one.base, one.moved, one.host) == (base, moved, base + moved)
    third = config(rank, away, "learner.zero_stage=3")
    assert learner_states(shape, third, 4).base == base / 4
    held = with_values(third, {"learner.offload_parameters": True})
    assert learner_states(shape, held, 4).base == 0  # it is never on the card
    assert learner_states(shape, config(rank, away), 1, on_cpu=True).base == 0
    assert learner_states(shape, config(rank), 1).base == 0
    assert learner_states(shape, config(away), 1).base == 0  # without adapters weights stay

    plan, stays = (make_plan(config(*keys), shape, gpus(80, 1)) for keys in ([rank, away], [rank]))
    parts = {phase.name: phase.parts for phase in plan.phases}
    assert parts["sampling"]["weights"] == parts["weight sync"]["weights"] == 2 * 1e8
    for name in ("update: head", "update: backward", "optimizer step", "receipt"):
        assert parts[name]["weights"] == 2 * 8e9
        assert "engine: weights" not in parts[name]
    together = {phase.name: phase.parts for phase in stays.phases}["receipt"]
    assert together["weights"] == together["engine: weights"] == 2 * 8e9  # both awake
    # Of the probe's two prompts, 1,124 + 4 tokens each: 4 states of 128 and 3 of 512, or pictures.
    assert together["activations"] >= 2 * 1128 * 2 * (4 * 128 + 3 * 512)
    assert plan.host.states == base + moved
    assert plan.host.engine == stays.host.engine == pytest.approx(4 / 3 * base)
    # The state goes out and back, the base only back: its copy stays.
    assert plan.seconds.total - stays.seconds.total == pytest.approx((2 * moved + base) / 25e9)
    engine = 1.0 + shape.tensors * 0.5e-3 + 2 * base / 25e9
    assert stays.seconds.sync == pytest.approx(engine)


def test_frozen_weights_have_no_gradient_in_the_seconds_either():
    shape, target = shape_of("Qwen3-VL-8B"), gpus(80, 1)
    keys = ("model.gradient_checkpointing=all", "model.lora.rank=8")
    full, adapters = (make_plan(config(*keys[:count]), shape, target) for count in (1, 2))
    vision = vision_operations(shape, full.work)
    text = (forward_operations(shape, full.work) - vision) / (0.6 * 989e12)
    # Forward, again, and the gradients of states and weights; the tower is frozen in both.
    tower = vision / (0.6 * 989e12)
    assert full.seconds.products == pytest.approx(4 * text + tower)
    assert adapters.seconds.products == pytest.approx(3 * text + tower)


def test_the_reduce_bucket_is_as_the_deepspeed_file_says(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": true}}')
    keys = ("learner.zero_stage=2", f"learner.deepspeed={file}")
    assert learner_states(shape_of("tiny"), config(*keys), 2).bucket == 2 * 1000 * 2
    assert learner_states(shape_of("tiny"), config("learner.zero_stage=2"), 2).bucket == 10**9


def test_what_a_layer_saves_by_hand():
    layer = shape_of("tiny").layers[0]  # width 128, 4 heads and 2 of keys of 32, network 512
    norms = 2 * (128 * 6 + 4 + 128 * 2)
    heads = (128 + 64) * 6 + 6 * 4
    attention = (2 * 128 + 2 * 64) * 2 + 4 * 4
    row = Row(scored=3, patches=0, prompts=[5], responses=[2, 1])
    assert layer_saved(layer, 2, row) == 8 * (norms + heads + attention + 4 * 512 * 2)


def test_a_group_that_exceeds_the_budget_pays_its_prompt_twice():
    shape = shape_of("Qwen3-VL-8B")
    keys = ("rollout.prompts=64", "rollout.max_new_tokens=2048")
    small = workload(config(*keys, "learner.micro_batch_tokens=16384"), shape, 8)
    assert (small.image_tokens, small.prompt_tokens, small.prompts) == (1024, 1124, 8)
    # 7 responses of 2,047 fit beside the prompt, so each of 2 groups is cut in two: 37,248 tokens
    assert (small.tokens, small.rows, small.row_tokens) == (4 * 37_248, 4 * 3, 16_384)
    large = workload(config(*keys, "learner.micro_batch_tokens=32768"), shape, 8)
    assert (large.tokens, large.rows, large.row_tokens) == (4 * 35_000, 4 * 2, 32_768)
    assert large.scored == 8 * 8 * 2048
    assert large.pairs == 64 * (2048**2 / 2 + 2048 * 1124) + 8 * 1124**2 / 2


def test_the_cache_under_tensor_parallelism():
    shape = shape_of("Qwen3-VL-8B")  # 8 heads of keys
    one, two, sixteen = (
        kv_bytes_per_token(shape, config(f"generator.tensor_parallel={n}")) for n in (1, 2, 16)
    )
    assert (two, sixteen) == (one / 2, one / 8)
    keys = ("generator.gpu_memory_utilization=0.5", "generator.tensor_parallel=2")
    made = config(*keys)
    memory = engine_memory(shape, made, gpus(80, 8), workload(made, shape, 8))
    assert memory.weights == shape.parameters  # 2 bytes over 2 ranks
    assert memory.total == pytest.approx(0.5 * 79.1 * GIB)


def test_host_memory_and_disk_by_hand():
    shape = replace(shape_of("tiny"), rows=(("all", 8 * 10**9, 4 * 10**9),))
    off = config("learner.zero_stage=2", "learner.offload_optimizer=true")
    states = learner_states(shape, off, 8)
    host = host_memory(shape, off, gpus(80, 8), states, 0.0)
    assert host.states == 20 * 4e9  # over the 8 ranks
    assert host.loading == 8 * 2 * 8e9  # each rank reads all weights
    on_two = host_memory(shape, off, gpus(80, 16), learner_states(shape, off, 16), 0.0)
    assert on_two.states == 20 * 4e9 / 2  # of one of two machines
    space = disk(shape, config("checkpoint.keep=2", "learner.zero_stage=2"), 8)
    assert space.checkpoint == 2 * 8e9 + 12 * 4e9 + 9 * 100_000
    assert space.total == 3 * space.checkpoint + 2 * 8e9
    third = disk(shape, config("learner.zero_stage=3"), 8)
    assert third.checkpoint == 2 * 4e9 + 12 * 4e9 + 16 * 100_000  # frozen weights, optimizer
    warm = disk(shape, config("sft.steps=600", "checkpoint.sft_every=500"), 1)
    assert (warm.kept, warm.models) == (4, 2)  # the warm-up leaves one checkpoint and a model


def test_adapters_leave_the_base_out_of_checkpoints_and_asleep_in_host_memory():
    shape = replace(shape_of("tiny"), rows=(("all", 8 * 10**9, 10**8),))
    made = config("model.lora.rank=32", "learner.zero_stage=2")
    host = host_memory(shape, made, gpus(80, 8), learner_states(shape, made, 8), 0.0)
    # Each rank's engine sleeps at level 1, in buffers a third too large.
    assert host.engine == pytest.approx(8 * 2 * 7.9e9 * 4 / 3)
    halved = config("model.lora.rank=32", "generator.tensor_parallel=2")
    assert host_memory(
        shape, halved, gpus(80, 8), learner_states(shape, halved, 8), 0.0
    ).engine == pytest.approx(8 * 7.9e9 * 4 / 3)  # fmt: skip
    assert disk(shape, made, 8).checkpoint == 2 * 1e8 + 12 * 1e8 + 9 * 100_000
    third = config("model.lora.rank=32", "learner.zero_stage=3")
    assert disk(shape, third, 8).checkpoint == 12 * 1e8 + 16 * 100_000
    assert disk(shape, made, 8).final == 2 * 8e9  # merged


def test_operations_by_hand():
    shape = shape_of("Qwen3-VL-8B")
    made = config("rollout.prompts=64", "learner.micro_batch_tokens=32768")
    work = workload(made, shape, 8)
    layer = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 12_288
    text = 2 * 36 * layer * work.tokens + 4 * work.pairs * 4096 * 36
    total = forward_operations(shape, work)
    assert text < total < 1.03 * text  # norms and pictures are the rest
    target = gpus(80, 8)
    seconds = {
        choice: step_seconds(
            shape,
            with_values(made, {"model.gradient_checkpointing": choice}),
            target,
            work,
            engine_memory(shape, made, target, work),
        )
        for choice in ("none", "alternate", "all")
    }
    # The frozen tower's forward pass is no part of what is run again.
    again = (text + 0.01 * text) / (0.6 * 989e12)
    assert seconds["all"].products - seconds["none"].products == pytest.approx(again, rel=0.02)
    assert seconds["none"].update < seconds["alternate"].update < seconds["all"].update
    assert seconds["all"].useful == seconds["none"].useful


def test_what_is_proposed_fits_the_fastest_first():
    keys = ("model.path=Qwen3-VL-8B", "model.freeze=[vision]", "generator.max_model_len=6144")
    plan = make_plan(config(*keys), shape_of("Qwen3-VL-8B"), gpus(80, 1))
    assert "GiB of a card on which 75.1 GiB are usable" in plan.problems()[0]
    changes = changes_that_fit(plan)
    assert changes
    for change in changes:
        tried = make_plan(with_values(plan.config, change.values), plan.shape, plan.hardware)
        assert tried.problems() == []
        assert change.values["learner.offload_optimizer"] is True
    times = [change.plan.seconds.total for change in changes]
    assert times == sorted(times)
    assert changes[0].text.startswith("learner.offload_optimizer=true")


def test_nothing_helps_8b_on_one_small_card():
    plan = make_plan(config("model.path=Qwen3-VL-8B"), shape_of("Qwen3-VL-8B"), gpus(24, 1))
    assert plan.problems()
    assert changes_that_fit(plan) == []


def test_an_engine_without_room_for_a_sequence_is_named():
    plan = make_plan(
        config("generator.gpu_memory_utilization=0.07"), shape_of("Qwen3-VL-2B"), gpus(80, 8)
    )
    assert "generator.gpu_memory_utilization=0.07" in plan.problems()[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_fits_the_hardware_that_its_comment_names(file):
    named = assumed(file)
    assert named is not None, "a line `# Hardware: N GPUs of M GB` is missing"
    count, size = named
    made = load(file, [])
    shape = model_shape(module_on_meta(made)[0])
    plan = make_plan(made, shape, gpus(size, count))
    assert plan.problems() == []
    assert made.rollout.prompts >= count
    comment = " ".join(file.read_text().replace("\n#", "").split())
    assert summary(plan) in comment


@pytest.mark.parametrize(
    ("name", "size", "count", "keys"),
    [
        (
            "vl_2b",
            24,
            1,
            "learner.offload_optimizer=true model.gradient_checkpointing=all "
            "generator.gpu_memory_utilization=0.7",
        ),
        ("vl_2b", 80, 8, ""),
        ("vl_4b", 80, 2, "learner.offload_optimizer=false generator.gpu_memory_utilization=0.5"),
        ("vl_8b", 80, 4, "learner.zero_stage=3"),
        ("vl_8b", 80, 2, "learner.offload_optimizer=true"),
        ("vl_8b", 80, 1, "learner.offload_optimizer=true"),
        (
            "vl_8b_lora_48gb",
            48,
            1,
            "learner.offload_while_sampling=false generator.gpu_memory_utilization=0.5",
        ),
        ("5_4b", 80, 2, "learner.offload_optimizer=false generator.gpu_memory_utilization=0.5"),
        ("5_9b", 80, 4, "learner.offload_optimizer=true"),
        ("5_9b", 80, 1, "learner.offload_optimizer=true"),
    ],
)
def test_what_the_comments_say_about_other_hardware_fits(name, size, count, keys):
    made = load(ROOT / f"configs/train/qwen3_{name}.yaml", keys.split())
    plan = make_plan(made, model_shape(module_on_meta(made)[0]), gpus(size, count))
    assert plan.problems() == []


def test_the_hardware_is_the_visible_one_else_what_the_comment_names(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\n# Hardware: 4 GPUs of 48 GB, one node\nrun: {}\n")
    monkeypatch.setattr("sapo_vl.system.machine.gpu_count", lambda: 0)
    assert planned_hardware(file, None, None) == gpus(48, 4)
    assert planned_hardware(file, 80, None) == gpus(80, 4)
    assert planned_hardware(None, None, None) == cpu(1)
    assert planned_hardware(None, 24, 2) == gpus(24, 2)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 143771\necho 143771\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("sapo_vl.system.machine.gpu_count", lambda: 2)
    assert planned_hardware(file, None, None) == gpus(141, 2)


@pytest.mark.parametrize(
    ("mebibytes", "size"), [(24_564, 24), (46_068, 48), (81_559, 80), (143_771, 141)]
)
def test_a_visible_card_is_the_nearest_of_the_table(tmp_path, monkeypatch, mebibytes, size):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {mebibytes}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert hardware.visible_size() == size


def test_a_machine_with_too_little_memory_or_disk_is_refused(tmp_path, monkeypatch):
    made = config(f"run.dir={tmp_path / 'run'}", "generator.max_model_len=4096")
    check_capacity(made)
    monkeypatch.setattr(hardware, "free_memory", lambda: 2**20)
    with pytest.raises(ConfigError, match=r"model\.path=tiny: 1 rank.* name a smaller model"):
        check_capacity(made)
    monkeypatch.setattr(hardware, "free_memory", lambda: None)  # not known on this system
    check_capacity(made)
    monkeypatch.setattr(hardware, "free_disk", lambda folder: 2**20)
    with pytest.raises(ConfigError, match=r"run\.dir=.*lower checkpoint\.keep=2, or name a folder"):
        check_capacity(made)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000020"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(2**26))  # a resumed run: already written
    check_capacity(made)


def test_offloading_more_than_the_machine_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda: 100 * GIB)
    monkeypatch.setattr(hardware, "free_disk", lambda folder: 10**15)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    keys = ("model.path=Qwen3-VL-8B", f"run.dir={tmp_path}", "learner.offload_optimizer=true")
    with pytest.raises(ConfigError, match=r"offload_optimizer=true: 1 rank.* keep 16\d\.\d GiB"):
        check_capacity(config(*keys))
    check_capacity(config(*keys[:2]))
    check_capacity(config(*keys, "model.freeze=[language]"))  # 0.6 B parameters
    monkeypatch.setattr(hardware, "free_memory", lambda: 10 * GIB)
    with pytest.raises(ConfigError, match=r"lora\.rank=8: 1 rank.* keep 2\d\.\d GiB.* more memory"):
        check_capacity(config(*keys[:2], "model.lora.rank=8"))  # its engine's base, asleep


def test_a_dry_run_says_what_does_not_fit_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "free_memory", lambda: GIB)
    file = ROOT / "configs/train/qwen3_vl_30b_a3b.yaml"
    show(load(file, ["data.path=null", f"run.dir={tmp_path}", "generator.backend=transformers"]))
    text = capsys.readouterr().out
    assert "128 prompts x 8 responses of at most 4096 tokens" in text
    assert re.search(
        r"does not fit: model\.path=Qwen/.*: 1 rank.* keep \d+\.\d GiB in its mem", text
    )


def test_an_engine_of_another_kind_has_its_own_memory():
    shape, keys = shape_of("Qwen3-VL-2B"), ["rollout.max_new_tokens=1024"]
    for backend, weights, group in (("transformers", 2 * 2_127_532_032, 8), ("my.py:Engine", 0, 0)):
        made = config(f"generator.backend={backend}", *keys)
        memory = engine_memory(shape, made, gpus(80, 1), workload(made, shape, 1))
        assert (memory.weights, memory.sequences, memory.sleeps) == (weights, group, False)
        assert memory.kv_tokens == group * (1124 + 1024)
        update = make_plan(made, shape, gpus(80, 1)).phases[1]
        assert update.parts["engine: weights"] == weights  # it doesn't sleep


def test_servers_have_no_part_in_the_learners_memory_and_seconds():
    shape, here = shape_of("Qwen3-VL-2B"), config()
    servers = config("generator.backend=server", "generator.servers=[http://h:1]")
    ours, theirs = (make_plan(made, shape, gpus(80, 1)) for made in (servers, here))
    assert not any(ours.phases[0].parts[name] for name in ours.phases[0].parts if "engine" in name)
    assert ours.seconds.prefill == ours.seconds.decode == 0 < theirs.seconds.decode
    assert ours.seconds.old_logprobs == theirs.seconds.old_logprobs > 0
    moves = "learner.offload_while_sampling"  # no card is shared
    assert not any(moves in values for values in fit._alternatives(ours))
    assert any(moves in values for values in fit._alternatives(theirs))
    gated = with_values(servers, {"algorithm.staleness": "gate"})
    assert make_plan(gated, shape, gpus(80, 1)).seconds.old_logprobs == 0


def test_free_memory_is_part_of_the_machines():
    free = hardware.free_memory()
    assert free is not None
    assert 10**8 < free < 10**14


def test_the_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert hardware.free_disk(tmp_path / "a" / "b") == pytest.approx(
        hardware.free_disk(tmp_path), rel=0.01
    )


@pytest.mark.slow
def test_the_command_prints_the_tables_and_then_refuses(capfd):
    from sapo_vl.cli.parser import main

    main(["plan", "--config", "qwen3_vl_2b", "--gpu", "80", "--gpus", "8"])
    text = capfd.readouterr().out
    for words in ("memory per rank", "KV cache", "host memory", "seconds of a step", "MFU"):
        assert words in text
    text = one_line("plan", "--config", "qwen3_vl_8b", "--gpu", "24", "--gpus", "1")
    assert "the run does not fit 1 x RTX 4090" in text
    text = one_line("plan", "--config", "qwen3_vl_30b_a3b", "--gpu", "80", "--gpus", "3")
    assert "generator.tensor_parallel=4 does not divide the number of GPUs (3)" in text
