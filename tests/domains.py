"""ROS domain for the tests of one process: free of other test runs, of their leftover nodes, and of robots.

`domain_coordinator` separates test runs but checks nothing else: a node of a killed run, or of a robot, may use a
domain that it considers free. Participants of a domain hold its UDP ports, which the kernel lists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

__all__ = ["occupied", "own_domain"]

# RTPS 2.2, 9.6.1: a domain's ports begin here, and are so many.
_FIRST_PORT, _PORTS = 7400, 250
_DOMAINS = range(1, 101)
"""Not 0, where robots are. Ports of those above 101 are also given to anybody who asks for none in particular."""


def occupied() -> set[int]:
    """Return the domains used by processes of this machine; empty if the system does not list ports."""
    found = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        ports = [int(line.split()[1].rpartition(":")[2], 16) for line in lines]
        found |= {(port - _FIRST_PORT) // _PORTS for port in ports if port >= _FIRST_PORT}
    return found & set(_DOMAINS)


def own_domain() -> AbstractContextManager[int]:
    """Reserve a free domain: that of ROS_DOMAIN_ID if it is free, else the first free one.

    Raises:
        RuntimeError: all are in use.
    """
    import domain_coordinator

    free = _free()

    def select() -> int:
        domain = next(free, None)
        if domain is None:
            raise RuntimeError(f"ROS domains {_DOMAINS[0]} to {_DOMAINS[-1]} are all in use on this machine")
        return domain

    return domain_coordinator.domain_id(select)


def _free() -> Iterator[int]:
    asked, taken = os.environ.get("ROS_DOMAIN_ID", ""), occupied()
    first = [int(asked)] if asked.isdecimal() and int(asked) in _DOMAINS else []
    yield from (domain for domain in (*first, *_DOMAINS) if domain not in taken)
