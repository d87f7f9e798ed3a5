"""`sapo-vl serve`: one vLLM server that samples for runs with generator.backend=server."""

from __future__ import annotations

import argparse
import os

from sapo_vl.cli.options import add_config, load_config
from sapo_vl.config import tiny_family
from sapo_vl.errors import ConfigError
from sapo_vl.system.machine import prepare_environment

PORTS = range(1, 65_536)


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command of this file to `commands`."""
    serve = commands.add_parser(
        "serve", help="run a vLLM server that samples for generator.servers of a training run"
    )
    add_config(serve)
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    serve.set_defaults(run=_serve, parser=serve)


def _serve(arguments: argparse.Namespace) -> None:
    """Become the server: the same program and options as one of generator.local_servers."""
    prepare_environment()
    config = load_config(arguments)
    if arguments.port not in PORTS:
        raise ConfigError(f"--port {arguments.port} must be from 1 to 65535")
    if tiny_family(config.model.path) is not None:
        raise ConfigError(
            f"model.path={config.model.path} is built in a run's folder: name a folder, such as "
            "one that sapo-vl init-tiny wrote"
        )
    from sapo_vl.generator.servers.generator import key_of_environment
    from sapo_vl.generator.servers.process import serve_command, server_environment
    from sapo_vl.model.assets import open_assets

    key = key_of_environment()
    assets = open_assets(config.model.path)
    command = serve_command(
        config, assets, seed=config.run.seed, host=arguments.host, port=arguments.port
    )
    print(f"serving {config.model.path} on http://{arguments.host}:{arguments.port}", flush=True)
    os.execve(command[0], command, server_environment(key))
