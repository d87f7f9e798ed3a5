"""gpu_check on a CPU: all but what needs a GPU, and that its checks can fail."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from bench import random_model
from delta_kernels import chunk_gated_delta_rule
from gpu_check import __main__ as command
from gpu_check import delta, jobs, kernels, learning, runner
from gpu_check.learning import Trained
from gpu_check.outcome import FAILED, OK, SKIPPED, Outcome, Setting, at_most, last_error, line
from gpu_check.parts import PARTS
from gpu_check.runner import Part, reason_to_skip

from sapo_vl import config as configs
from sapo_vl.learner import attention, gated_delta_fla, logprobs


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A CPU with the four-layer model and all optional packages."""
    folder = tmp_path_factory.mktemp("gpu_check")
    random_model.build(folder / "model", random_model.FOUR_LAYERS, torch.device("cpu"))
    return Setting("cpu", 0, folder, frozenset(runner.NAMES))


def results(outcomes) -> dict[str, str]:
    return {outcome.what: outcome.result for outcome in outcomes}


def test_the_four_layer_model_has_what_tiny_ones_lack():
    text = random_model.configuration("four-layers", _tokenizer()).text_config
    assert (text.vocab_size, text.head_dim, text.num_hidden_layers) == (151_936, 128, 4)
    assert text.num_attention_heads == 4 * text.num_key_value_heads
    assert not text.tie_word_embeddings


def _tokenizer():
    class Tokenizer:
        eos_token_id, pad_token_id = 2, 0

        def convert_tokens_to_ids(self, token: str) -> int:
            return len(token)

    return Tokenizer()


def test_attention_and_head_on_a_cpu(setting):
    found = results([*kernels.check_attention(setting), *kernels.check_head(setting)])
    assert found.pop("flex against dense") == SKIPPED
    assert found.pop("varlen against dense") == SKIPPED
    assert set(found.values()) == {OK}
    assert {"cascade against dense, bfloat16", "cascade, 4 x 60, 340 tokens"} < found.keys()
    assert "head 64 wide, float32, chunks of 2^20 logits" in found
    assert logprobs.CHUNK_LOGITS["cpu"] == 2**24  # as before


def test_attention_that_sees_another_response_fails(setting, monkeypatch):
    def leaking(layout, query, key):
        return (layout.group_T[query] == layout.group_T[key]) & (key <= query)

    monkeypatch.setattr(attention, "_visible", leaking)
    found = results(kernels.check_attention(setting))
    assert found["cascade against dense, float32"] == FAILED
    assert found["cascade against dense, bfloat16"] == FAILED


def test_a_head_without_its_temperature_is_far_off(monkeypatch):
    product = logprobs._logits
    monkeypatch.setattr(
        logprobs, "_logits", lambda h, w, b, temperature, *out: product(h, w, b, 1.0, *out)
    )
    error = kernels._head_error(64, torch.float32, torch.device("cpu"))
    assert error > 2 * kernels.BOUNDS[torch.bfloat16]


def test_a_gated_delta_net_on_a_cpu(setting):
    found = results(delta.check_delta(setting))
    assert found.pop("fla against PyTorch") == SKIPPED
    assert set(found.values()) == {OK}
    assert found.keys() == {
        "batched, bfloat16: output",
        "batched, bfloat16: gradients",
        "batched, 4 x 60, 340 tokens",
    }


@pytest.mark.parametrize("hands_over", [True, False])
def test_a_kernel_that_drops_the_prompts_states_fails(setting, monkeypatch, hands_over):
    def kernel(*args, initial_state, **kwargs):
        state = initial_state if hands_over else None
        return chunk_gated_delta_rule(*args, initial_state=state, **kwargs)

    monkeypatch.setattr(gated_delta_fla, "delta_kernel", lambda: kernel)
    monkeypatch.setitem(delta.FORMS, "cpu", ("fla",))
    monkeypatch.setitem(delta.TIMED, "cpu", {})
    found = results(delta.check_delta(setting))
    expected = OK if hands_over else FAILED
    assert found["fla, bfloat16: output"] == found["fla, bfloat16: gradients"] == expected


def test_layouts_of_the_policy(setting):
    found = results(learning.check_policy(setting))
    assert len(found) == 4
    assert set(found.values()) == {OK}


def test_a_policy_whose_responses_see_each_other_fails(setting, monkeypatch):
    def leaking(layout, query, key):
        return (layout.group_T[query] == layout.group_T[key]) & (key <= query)

    monkeypatch.setattr(attention, "_visible", leaking)
    monkeypatch.setitem(
        learning.POLICY_BOUNDS, "float32", learning.POLICY_BOUNDS["bfloat16"]
    )  # a GPU's bounds have teeth too
    found = results(learning.check_policy(setting))
    assert found["padded, float32: gradient"] == FAILED


@pytest.mark.slow
def test_zero_stages_and_checkpointing(setting):
    found = results(learning.check_zero(setting))
    assert len(found) == 3
    assert set(found.values()) == {OK}


def trained(shift: float, norm: float = 2.0) -> Trained:
    before = np.zeros(4)
    return Trained(before, before + 0.5 + shift, norm, seconds=1.0, peak=0.0)


def test_updates_are_compared_by_what_they_did(setting):
    reference = trained(0.0)
    near = learning.same_update("x", setting, "float32", trained(1e-4), reference)
    assert near.result == OK
    assert near.figures["error"] == pytest.approx(2e-4)  # 1e-4 of 0.5 nats
    for other in (trained(1e-2), trained(0.0, norm=2.01), trained(0.0, norm=float("nan"))):
        assert learning.same_update("x", setting, "float32", other, reference).result == FAILED


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("attention", {}, None),
        ("zero", {"modules": frozenset()}, "DeepSpeed is not installed"),
        ("engine", {"modules": frozenset({"deepspeed"})}, "vLLM is not installed"),
        ("tp", {"device": "cuda", "gpus": 1}, "needs 2 GPUs, here: 1"),
        ("tp", {"device": "cuda", "gpus": 2}, None),
        ("ranks", {}, "slow on a CPU: name it to run it"),
    ],
)
def test_why_a_part_is_skipped(part, change, reason, setting):
    assert reason_to_skip(PARTS[part], replace(setting, **change), named=False) == reason
    assert reason_to_skip(PARTS["ranks"], setting, named=True) is None


def crashes(setting):
    yield Outcome("first", OK)
    raise ValueError("a | b\nsecond line")


def dies(setting):
    yield Outcome("first", OK)
    os._exit(7)


def hangs(setting):
    yield Outcome("first", OK)
    time.sleep(60)


@pytest.mark.parametrize(
    ("check", "note"),
    [
        ("crashes", "ValueError: a / b"),
        ("dies", "its process ended with code 7"),
        ("hangs", "not done within 1 s"),
    ],
)
def test_a_part_that_breaks_keeps_what_it_found(check, note, setting):
    part = Part("test", f"{__name__}:{check}", limit=1 if check == "hangs" else 60)
    first, last = runner.run("x", part, setting)
    assert first.what == "first"
    assert (last.what, last.result, last.note) == ("the part", FAILED, note)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU here")
def test_the_process_of_a_part_on_a_gpu(setting):
    """A new process, not a fork; where torch finds no GPU the part fails and says so."""
    (outcome,) = runner.run("head", PARTS["head"], replace(setting, device="cuda", gpus=1))
    assert outcome.result == FAILED
    assert "CUDA" in outcome.note or "NVIDIA" in outcome.note


def test_the_smoke_run_without_vllm_on_a_gpu(setting, monkeypatch):
    """It samples with transformers, and says so."""
    calls = []

    def train(arguments):
        calls.append([str(argument) for argument in arguments])
        run = setting.folder / "smoke"
        run.mkdir(exist_ok=True)
        rows = [{"phase": "train", "mismatch/mean_abs": 0.01 * step} for step in (1, 2)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"phase": "sft"}, *rows])))

    monkeypatch.setattr(jobs, "_run", train)
    here = replace(setting, device="cuda", gpus=1, modules=frozenset({"deepspeed"}))
    (outcome,) = jobs.check_smoke(here)
    assert outcome.what == "smoke run, sampled with transformers, as vLLM is not installed"
    assert outcome.figures["mismatch/mean_abs"] == 0.02  # the last step's
    overrides = [argument for argument in calls[0] if "=" in argument]
    assert {"generator.backend=transformers", "model.dtype=bfloat16"} < set(overrides)
    smoke = jobs.ROOT / "configs" / "train" / "smoke.yaml"
    configs.load(smoke, overrides)  # every key exists


def test_the_line_that_says_why_a_program_failed():
    output = """[rank1]: Traceback (most recent call last):
[rank1]:   File "x.py", line 3
[rank1]: sapo_vl.errors.ConfigError: too much
[rank1]: more of it
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============="""
    assert last_error(output) == "[rank1]: sapo_vl.errors.ConfigError: too much"
    assert last_error("a\nkilled\n\n") == "killed"
    assert last_error("") == "no output"


def test_rows_of_the_table():
    assert line("p", at_most("w", 0.1, 0.25, peak_GiB=1.5)) == (
        "| p | w | FAILED: error 0.25 is above 0.1 | error 0.25, peak GiB 1.5 |"
    )
    assert at_most("w", 0.1, float("nan")).result == FAILED
    assert line("p", at_most("w", 0.1, 0.1)) == "| p | w | ok: bound 0.1 | error 0.1 |"


def test_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.split()[0] == "attention"
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["tp", "--device", "cpu", "--out", str(tmp_path / "table")]) == 0
    out = capsys.readouterr().out
    assert "with ZeRO-3 | skipped: DeepSpeed is not installed |" in out
    assert f"torch {torch.__version__}" in out
    assert (tmp_path / "table").read_text() == out
    monkeypatch.setitem(PARTS, "head", Part("test", f"{__name__}:crashes"))
    assert command.main(["head", "--device", "cpu"]) == 1
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "nothing is none of attention, head" in capsys.readouterr().err


def test_parts_that_say_they_need_no_deepspeed_import_none():
    """In a process of its own, as other tests import it."""
    import subprocess
    import sys

    from helpers import ROOT, environment

    code = (
        "import sys; sys.modules['deepspeed'] = None; sys.modules['vllm'] = None\n"
        "import gpu_check.__main__, gpu_check.kernels, gpu_check.learning, bench.variants\n"
        "import sapo_vl.learner.policy\n"
    )
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "scripts"), env["PYTHONPATH"]])
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert find_spec("deepspeed") is not None
