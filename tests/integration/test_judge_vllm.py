"""The judge against a real server: vLLM's OpenAI endpoint with the tiny model, on loopback.

The tiny model is untrained, so its replies contain no verdict: every request has to end as
NO_VERDICT, never as a silent 0 or 1.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("httpx")
pytest.importorskip("vllm")
from sapo_vl.errors import SetupError
from sapo_vl.rewards.rubric import Rubric
from sapo_vl.rewards.verifiers.judge import Judge, JudgeConfig
from sapo_vl.schema import Outcome, Sample
from sapo_vl.system.machine import COMMON_ENVIRONMENT, CPU_ENVIRONMENT

pytestmark = pytest.mark.slow
START_SECONDS = 240
SAMPLE = Sample("t-1", "test", "t", "What colour?", (), "dark red", answer_type="text")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    model, log = folder / "tiny", folder / "server.log"
    environment = os.environ | COMMON_ENVIRONMENT | CPU_ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "INFO"}
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"from sapo_vl.cli.parser import main; main(['init-tiny', {str(model)!r}])",
        ],
        check=True,
        env=environment,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(model), "--served-model-name", "tiny", "--host", "127.0.0.1"),
                *("--port", str(port), "--enforce-eager", "--max-model-len", "4096"),
                *("--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 << 20)),
                *("--dtype", "float32", "--limit-mm-per-prompt", '{"image": 0, "video": 0}'),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server, health, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the server ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


def test_the_server_is_checked(url):
    Judge(JudgeConfig(url, "tiny")).check()
    with pytest.raises(SetupError, match="absent"):
        Judge(JudgeConfig(url, "absent")).check()


def test_a_model_that_says_nothing_useful_gives_no_verdict(url):
    judge = Judge(JudgeConfig(url, "tiny", concurrency=4))
    answers = ["crimson", "blue", "a dark red", "Thought process:", ""]
    verdicts = judge.verdicts([(SAMPLE, answer) for answer in answers])
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes == [Outcome.NO_VERDICT] * 3 + [Outcome.WRONG] * 2
    assert {verdict.reason for verdict in verdicts[:3]} == {"judge: the reply has no verdict"}
    assert judge.calls == 3


def test_in_a_rubric_the_response_is_masked_and_the_rules_go_first(url):
    rubric = Rubric.from_terms([("answer_or_judge", 1.0)], judge=JudgeConfig(url, "tiny"))
    rewards = rubric.grade([(SAMPLE, r"\boxed{Dark red}"), (SAMPLE, r"\boxed{crimson}")])
    assert [(r.value, r.valid) for r in rewards] == [(1.0, True), (0.0, False)]
    rubric.close()
