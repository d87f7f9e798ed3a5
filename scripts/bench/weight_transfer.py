"""Seconds and bytes of updates of a server: `PYTHONPATH=scripts python -m bench.weight_transfer`.

One local server on a CPU, and a learner's weights in float32: of the tiny model (--width 0), or of
four layers at the real vocabulary, embedding and head of `--width` columns (160: 200 MB). They go
in shared memory, then by gloo as to another machine. `--rank N` sends an adapter: its folder's
path, then the folder itself. An update is all of it: pause, chunks, repacking, both caches, resume;
the first one of each kind also connects.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from sapo_vl.system.machine import prepare_environment

prepare_environment()

import torch  # noqa: E402

from bench import random_model  # noqa: E402
from sapo_vl import config as configs  # noqa: E402
from sapo_vl.data import synthetic  # noqa: E402
from sapo_vl.generator.servers import adapter_upload, routes, transfer  # noqa: E402
from sapo_vl.generator.servers.client import ServerClient  # noqa: E402
from sapo_vl.generator.servers.process import LocalServers  # noqa: E402
from sapo_vl.model import lora, tiny  # noqa: E402
from sapo_vl.model.assets import open_assets  # noqa: E402
from sapo_vl.model.weights import load_weights  # noqa: E402

UPDATES = 6


def main() -> None:
    """Print a line for each update."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder), options)


def _measure(folder: Path, options: argparse.Namespace) -> None:
    model = folder / "model"
    if options.width:
        random_model.TEXT["hidden_size"] = options.width
        random_model.VISION["out_hidden_size"] = options.width
        random_model.build(model, random_model.FOUR_LAYERS, torch.device("cpu"))
    else:
        tiny.build(model, corpus=synthetic.corpus(0, 600), seed=0)
    config = configs.load(
        None,
        [
            *(f"model.path={model}", f"run.dir={folder / 'run'}", "model.dtype=float32"),
            *("generator.backend=server", "generator.local_servers=1"),
            *(
                "generator.max_model_len=512",
                "generator.kv_cache_mb=64",
                "rollout.max_new_tokens=16",
            ),
            f"model.lora.rank={options.rank}",
        ],
    )
    assets = open_assets(model)
    servers = LocalServers(config, assets, seed=0)
    servers.start()
    try:
        client = ServerClient(servers.addresses[0], servers.key)
        named = weights(config, assets)
        for seen in (True, False):
            if not seen:
                _hide()
            sender = transfer.choose(config, assets)
            _send(sender, client, named, adapter=options.rank > 0, seen=seen)
            sender.close()
    finally:
        servers.stop()


def _hide() -> None:
    """Let servers seem not to see the learner's memory and folders."""
    own = adapter_upload.sees
    routes.sees = lambda *_: False
    adapter_upload.sees = lambda server, path, content: (
        "sapo_vl-upload" in path and own(server, path, content)
    )


def weights(config: configs.Config, assets: Any) -> list[tuple[str, torch.Tensor]]:
    """Return what a learner sends."""
    module = load_weights(assets, "float32")
    if config.model.lora.rank:
        lora.inject(module, config.model.lora, (), seed=0)
        named = [(n, p) for n, p in module.named_parameters() if lora.is_adapter(n)]
        return [(lora.peft_name(name), p.detach()) for name, p in named]
    return [(name, p.detach()) for name, p in module.named_parameters()]


def _send(
    sender: transfer.WeightSender,
    client: ServerClient,
    named: list[tuple[str, torch.Tensor]],
    *,
    adapter: bool,
    seen: bool,
) -> None:
    size = sum(tensor.numel() * tensor.element_size() for _, tensor in named) / 1e6
    send = sender.send_adapter if adapter else sender.send
    for version in range(UPDATES):
        start = time.perf_counter()
        send([client], named, version)
        seconds = time.perf_counter() - start
        way = "this machine" if seen else "another machine"
        speed = f"{size / seconds:.0f} MB/s"
        print(f"{way}: {size:.1f} MB in {seconds:.3f} s, {speed}", flush=True)


if __name__ == "__main__":
    main()
