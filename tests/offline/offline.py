"""A guard for the tests: whatever would leave this machine raises an error."""

import ipaddress
import socket
import sys

LOCAL = {"", "localhost", socket.gethostname(), socket.getfqdn()}
# Where the address stands among the arguments that Python's audit events carry.
EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


class NetworkRefusedError(RuntimeError):
    """No OSError, for code that retries or falls back on one would hide it."""


def is_local(address):
    """Tell whether an address, or the name of a host, is on this machine."""
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if host is None or host in LOCAL:
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.startswith(("/", "\0"))  # a socket of Unix
    return number.is_loopback or number.is_unspecified


def refuse(event, arguments):
    """Raise where an event of Python's audit goes to another machine."""
    if event in EVENTS:
        address = arguments[EVENTS[event]]
        if not isinstance(address, int) and not is_local(address):
            raise NetworkRefusedError(f"tests do not use the network: {address!r}")


def install():
    """Set the guard for the rest of the process: an audit hook cannot be taken away."""
    sys.addaudithook(refuse)
