"""Stand-ins for vLLM servers, and a generator that samples on them."""

from __future__ import annotations

import pytest
from helpers import tiny_config
from stand_in_server import KEY, StandInServer

from sapo_vl.generator.servers.command import serve_options
from sapo_vl.generator.servers.generator import ServerGenerator
from sapo_vl.generator.servers.transfer import TransferError


class Sender:
    """Brings a version to stand-ins."""

    def __init__(self, servers) -> None:
        self.servers = {server.address: server for server in servers}
        self.failures: dict[str, Exception] = {}
        self.sent: list[list[str]] = []
        self.released: list[str] = []

    def label(self, version):
        return f"run.{version}"

    def send(self, clients, weights, version):
        list(weights)
        self.sent.append([client.address for client in clients])
        for client in clients:
            if client.address not in self.failures:
                self.servers[client.address].weight_version = self.label(version)
        if self.failures:
            raise TransferError(version, self.failures)

    def release(self, clients):
        self.released += [client.address for client in clients]

    def close(self):
        pass


@pytest.fixture
def servers():
    found = [StandInServer() for _ in range(2)]
    yield found
    for server in found:
        server.hang = server.sick = False
        server.close()


@pytest.fixture
def build(tiny_folder, assets, monkeypatch):
    """Return a function that makes a generator of stand-ins."""
    monkeypatch.setenv("SAPO_SERVER_KEY", KEY)
    made = []

    def make(servers, seconds: float = 20.0, **changes):
        config = tiny_config(
            tiny_folder,
            "generator.backend=server",
            f"generator.servers=[{','.join(server.address for server in servers)}]",
            f"generator.server_seconds={seconds}",
        )
        options = serve_options(config, assets, seed=5)
        for server in servers:
            server.options = options | changes
        made.append(ServerGenerator(config, assets, seed=0, sender=Sender(servers)))
        return made[-1]

    yield make
    for generator in made:
        generator.close()
