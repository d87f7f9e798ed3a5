"""`sapo-vl serve`: one vLLM server that samples for runs with generator.servers, on any machine."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from sapo_vl.cli.options import add_config, load_config
from sapo_vl.config import tiny_family
from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.system.machine import check_gpu, prepare_environment


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to `commands`."""
    serve = commands.add_parser(
        "serve", help="run one vLLM server for runs with generator.servers; the learner's config"
    )
    add_config(serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: loopback)"
    )
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    serve.set_defaults(run=_serve, parser=serve)


def _serve(arguments: argparse.Namespace) -> None:
    """Become the server's process: the same command as that of a local server."""
    prepare_environment()
    config = load_config(arguments)
    path = config.model.path
    if tiny_family(path) is not None:
        raise ConfigError(
            f"model.path={path} is built in a run: make a folder with `sapo-vl init-tiny OUT` and "
            "name it in both commands"
        )
    check_gpu()
    check_port(arguments.host, arguments.port)
    from sapo_vl.generator.servers.command import serve_command, serve_environment, serve_options
    from sapo_vl.generator.servers.generator import key_of_environment
    from sapo_vl.model.assets import open_assets

    key = key_of_environment()
    options = serve_options(config, open_assets(path), seed=config.run.seed)
    command = serve_command(options, arguments.host, arguments.port)
    sys.stdout.flush()
    os.execve(command[0], command, serve_environment(key, options))


def check_port(host: str, port: int) -> None:
    """Raise SetupError where nobody can listen at `host`:`port`; ConfigError for no port."""
    if not 0 < port < 2**16:
        raise ConfigError(f"--port {port} must be from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SetupError(
            f"--host {host} --port {port}: {error.strerror or error}: name an address of this "
            "machine and a free port"
        ) from error
