"""Free ports of this machine."""

from __future__ import annotations

import secrets
import socket

# Linux gives out ports from 32768 for outgoing connections and for port 0. Such a port could be
# taken before the test has started its server.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now; nothing reserves it."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, each a different one."""
    found: set[int] = set()
    while len(found) < count:
        # Not `random`: Hypothesis seeds it, so two processes would find the same port.
        port = secrets.choice(_PORTS)
        if _is_free(port):
            found.add(port)
    return list(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
