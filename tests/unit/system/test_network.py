"""How ranks on several machines find each other, on this one."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from sapo_vl.errors import SetupError
from sapo_vl.system import network


@pytest.fixture(autouse=True)
def ranks(monkeypatch):
    """Two ranks, one of them here."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is restored, whatever it becomes
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_PORT", "29511")


def named(monkeypatch, **addresses: str) -> None:
    """Let names stand for addresses, as /etc/hosts does."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        return real(addresses.get(host, host), *arguments, **options)

    monkeypatch.setattr(network.socket, "getaddrinfo", getaddrinfo)


def chosen(monkeypatch, address: str) -> str | None:
    monkeypatch.setenv("MASTER_ADDR", address)
    network.choose_interface()
    return network.os.environ.get("GLOO_SOCKET_IFNAME")


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_an_address_of_this_machine_alone_is_reached_by_lo(monkeypatch, address):
    assert chosen(monkeypatch, address) == "lo"


def test_a_users_interface_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert chosen(monkeypatch, "no.such.machine.invalid") == "ib0"


def test_a_name_for_loopback_is_refused_where_ranks_are_elsewhere(monkeypatch):
    """Debian's /etc/hosts gives a machine's own name to 127.0.1.1."""
    named(monkeypatch, node0="127.0.1.1")
    with pytest.raises(SetupError, match=r"node0.*is 127\.0\..*hostfile"):
        chosen(monkeypatch, "node0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert chosen(monkeypatch, "node0") == "lo"


def test_an_interface_is_found_by_its_address():
    assert network.interface_of("127.0.1.1") == "lo"
    assert network.interface_of("203.0.113.7") is None  # reserved for documentation
    assert network.interface_of("fd00::1") is None


def test_a_name_that_nobody_knows_is_refused(monkeypatch):
    with pytest.raises(SetupError, match=r"no\.such\.machine\.invalid.*MASTER_ADDR"):
        chosen(monkeypatch, "no.such.machine.invalid")


def test_rank_0_may_be_late(monkeypatch):
    monkeypatch.setattr(network, "POLL_SECONDS", 0.01)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))  # connections are refused until it listens
    port = listener.getsockname()[1]
    with pytest.raises(SetupError, match=rf"127\.0\.0\.1:{port} within 0\.05 s"):
        network.await_rank_0("127.0.0.1", port, 0.05)
    started = time.monotonic()
    threading.Timer(0.2, listener.listen).start()
    network.await_rank_0("127.0.0.1", port, 10)
    assert 0.15 < time.monotonic() - started < 5
    listener.close()


def test_rank_0_takes_its_port(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(SetupError, match=f"port {port} is in use"):
            network.prepare(rank=0)
        network.prepare(rank=1)  # somebody listens
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        network.prepare(rank=0)
