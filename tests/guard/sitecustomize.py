"""No Python process of the tests reaches beyond this machine: who tries is refused, and told of.

Python imports a module of this name when it starts, so tests/conftest.py puts this folder on the
path of every process that a test starts. What is refused is also written to the file OFFLINE_LOG,
for code may take it for a network that is down and go on. Libraries that do not ask Python's
`socket` (FFmpeg, gloo, a browser) are not seen.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path

LOG = "OFFLINE_LOG"


def beyond(event: str, arguments: tuple) -> str | None:
    """The place beyond this machine that an audited call wants to reach, None if there is none."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are paths, or netlink
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return None
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name in ("localhost", socket.gethostname()):
        return None
    try:
        number = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return name
    if event == "socket.getaddrinfo":  # of a number, nobody is asked
        return None
    return None if number.is_loopback or number.is_unspecified else name


def refuse(event: str, arguments: tuple) -> None:
    place = beyond(event, arguments)
    if place is not None:
        # A name that nobody can have is asked for to see it fail.
        if (path := os.environ.get(LOG)) and not place.endswith(".invalid"):
            with Path(path).open("a") as log:
                log.write(f"{event} {place} by {' '.join(sys.orig_argv[:6])[:200]}\n")
        raise PermissionError(f"tests use no network, and this wants to reach {place}")


sys.addaudithook(refuse)
