"""No network: not where the module is imported, and not where it is tested."""

import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from conftest import ROOT
from offline import NetworkRefusedError, is_local

MODULES = sorted(path.stem for path in (ROOT / "lipsmooth").glob("[!_]*.py"))
# An address of nobody's, set apart for documentation.
NOBODY = ("192.0.2.1", 9)

IMPORTS = """\
import importlib, sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
for name in sys.argv[1:]:
    importlib.import_module(f"lipsmooth.{name}")
print("imported", len(sys.argv) - 1)
import socket
socket.socket()
"""


def test_importing_the_module_opens_no_socket():
    """The last line of the script does, which shows that it would be noticed."""
    command = [sys.executable, "-W", "error", "-c", IMPORTS, *MODULES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"imported {len(MODULES)}\n", done.stderr[-2000:]
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: socket.__new__")
    assert len(MODULES) > 50


def test_the_guard_refuses_other_machines():
    with pytest.raises(NetworkRefusedError, match=r"192\.0\.2\.1"):
        socket.create_connection(NOBODY, timeout=1)
    with pytest.raises(NetworkRefusedError), socket.socket() as stream:
        stream.connect_ex(NOBODY)
    with (
        pytest.raises(NetworkRefusedError),
        socket.socket(type=socket.SOCK_DGRAM) as packets,
    ):
        packets.sendto(b"", NOBODY)
    with pytest.raises(NetworkRefusedError, match="tests do not use the network"):
        urllib.request.urlopen("http://example.org/", timeout=1)
    with pytest.raises(NetworkRefusedError):
        socket.gethostbyname("example.org")


def test_the_guard_holds_in_children():
    script = f"import socket; socket.create_connection({NOBODY!r}, timeout=1)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "NetworkRefusedError" in done.stderr.splitlines()[-1]


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments):
        pass


def test_the_guard_lets_this_machine_talk_to_itself():
    with HTTPServer(("localhost", 0), Hello) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with urllib.request.urlopen(f"http://localhost:{server.server_port}/") as reply:
            assert reply.read() == b"hello"


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 1), ("::1", 1, 0, 0), ("", 0), "/run/socket", b"\0name"]
)
def test_addresses_of_this_machine(address):
    assert is_local(address)


@pytest.mark.parametrize(
    "address", [NOBODY, ("2001:db8::1", 1, 0, 0), ("example.org", 443), "localhost.org"]
)
def test_addresses_of_others(address):
    assert not is_local(address)
