"""How the ranks of several machines find each other: rank 0's address, and gloo's interface.

Ranks on one machine meet in a file and need none of this (system/launch.py).
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import time

from sapo_vl.errors import SetupError

MEET_SECONDS = 600.0
"""Time that rank 0 has to listen: its machine may be setting up its environment."""

POLL_SECONDS = 0.5

SIOCGIFADDR = 0x8915  # of netdevice(7): an interface's IPv4 address

INTERFACE = "GLOO_SOCKET_IFNAME"


def prepare(rank: int) -> None:
    """Choose the interface, check the port on rank 0, and wait for it on the others.

    Raises SetupError, which names the address or port and what to change.
    """
    choose_interface()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return  # torchrun's agent has the store
    if rank == 0:
        check_port(_port())
    else:
        await_rank_0(os.environ["MASTER_ADDR"], _port(), MEET_SECONDS)


def choose_interface() -> None:
    """Have gloo use the interface that leads to MASTER_ADDR, where the user names no other.

    Gloo alone takes the address that this machine's name stands for, which is a loopback address on
    many (Debian's /etc/hosts), or an interface that doesn't reach the other machines. Raises
    SetupError where MASTER_ADDR is a name that stands for such an address, and ranks are on other
    machines.
    """
    if INTERFACE in os.environ:
        return
    name = os.environ["MASTER_ADDR"]
    local = local_address(name, _port())
    all_here = (
        name in ("localhost", local)
        or os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    )
    if ipaddress.ip_address(local).is_loopback and not all_here:
        raise SetupError(
            f"{name}, where the ranks are to meet, is {local} on this machine, which others can't "
            "reach: write its address on the network in the hostfile's first line, or set "
            f"MASTER_ADDR to it (or {INTERFACE} to the network's interface)"
        )
    interface = interface_of(local)
    if interface is not None:
        os.environ[INTERFACE] = interface


def local_address(host: str, port: int) -> str:
    """Return this machine's address on the way to `host`; nothing is sent.

    Raises SetupError for a name that can't be resolved, or an address without a way to it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError as error:
        raise SetupError(
            f"{host}, where the ranks are to meet, can't be reached from this machine "
            f"({error.strerror or error}): set MASTER_ADDR to the first machine's address"
        ) from error


def interface_of(address: str) -> str | None:
    """Return the interface with this IPv4 address; None if there is none, or for IPv6.

    127.0.0.0/8 is lo's.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.version != 4:
        return None
    if parsed.is_loopback:
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # without an address
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def check_port(port: int) -> None:
    """Check that rank 0 can listen on `port`. Raises SetupError otherwise."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise SetupError(
                f"port {port} is in use on this machine: set MASTER_PORT to a free one"
            ) from error


def await_rank_0(host: str, port: int, seconds: float) -> None:
    """Wait until rank 0 listens. Raises SetupError when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"rank 0 did not answer at {host}:{port} within {seconds:g} s "
                    f"({error.strerror or error}): see its output; its machine must let the others "
                    f"reach port {port}"
                ) from error
        time.sleep(POLL_SECONDS)


def _port() -> int:
    return int(os.environ.get("MASTER_PORT", "29500"))
