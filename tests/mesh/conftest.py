"""A WireGuard device of ours, and beside it a second node that the distribution's own tool configures."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plugin.wireguard.backend import Backend, kernel_has_wireguard
from plugin.wireguard.kernel import KernelWireGuard
from plugin.wireguard.keys import generate, public_key
from plugin.wireguard.userspace import WireGuardGo
from tests.netns import netns as netns

DEVICE = "sp-wg"
IMPLEMENTATIONS = ("kernel", "wireguard-go")


@dataclass
class Other:
    """The second node: its namespace, its keys, and addresses on the wire between the two."""

    netns: str
    private: str
    public: str
    port: int = 51900

    def run(self, *command: str, check: bool = True, stdin: str | None = None) -> str:
        """Run a command there."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns, *command], capture_output=True, text=True, check=check, input=stdin
        )
        return done.stdout

    def admit(self, key: str, allowed: str, preshared: str = "") -> None:
        """Have a peer there."""
        secret = ["preshared-key", "/dev/stdin"] if preshared else []
        self.run("wg", "set", "wg0", "peer", key, *secret, "allowed-ips", allowed, stdin=preshared or None)


@pytest.fixture(params=IMPLEMENTATIONS)
async def backend(request: pytest.FixtureRequest, netns: None) -> AsyncIterator[Backend]:
    """The implementation under test, with nothing there yet."""
    if shutil.which("wg") is None:
        pytest.skip("missing: wg; apt-get install wireguard-tools")
    made: Backend
    if request.param == "kernel":
        if not await asyncio.to_thread(kernel_has_wireguard):
            pytest.skip("this kernel has no WireGuard; tests/guest runs these tests in one that has")
        made = KernelWireGuard()
    else:
        if os.environ.get("STACKPAD_GUEST"):
            pytest.skip("in the guest only the kernel's own is of interest")
        if shutil.which("wireguard-go") is None or not Path("/dev/net/tun").exists():
            pytest.skip("missing: wireguard-go, or /dev/net/tun")
        made = WireGuardGo()
    yield made
    await made.remove()
    await made.close()


@pytest.fixture
def other(backend: Backend) -> Iterator[Other]:
    """The second node, on a wire of 192.0.2.0/24 and 2001:db8::/64, with an implementation of its own."""
    private = generate()
    made = Other(f"spt{os.getpid()}", private, public_key(private))
    subprocess.run(["ip", "netns", "add", made.netns], check=True)
    process = None
    try:
        wire = ["ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", made.netns]
        subprocess.run(wire, check=True)
        for enter, number in (([], 1), (["ip", "netns", "exec", made.netns], 2)):
            for words in (
                ["link", "set", "lo", "up"],
                ["link", "set", "wire", "up"],
                ["addr", "add", f"192.0.2.{number}/24", "dev", "wire"],
                ["addr", "add", f"2001:db8::{number}/64", "dev", "wire", "nodad"],
            ):
                subprocess.run([*enter, "ip", *words], check=True)
        if backend.name == "kernel":
            made.run("ip", "link", "add", "wg0", "type", "wireguard")
        else:
            words = ["ip", "netns", "exec", made.netns, "wireguard-go", "-f", "wg0"]
            # The one of a process that was killed would be taken for that of the next.
            socket = Path("/var/run/wireguard/wg0.sock")
            socket.unlink(missing_ok=True)
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
            for _ in range(500):
                if socket.exists() and "wg0" in made.run("ip", "-o", "link"):
                    break
                time.sleep(0.02)
        made.run("wg", "set", "wg0", "private-key", "/dev/stdin", "listen-port", str(made.port), stdin=private)
        made.run("ip", "addr", "add", "10.192.64.1/32", "dev", "wg0")
        made.run("ip", "addr", "add", "fd00:0:0:100::1/128", "dev", "wg0", "nodad")
        made.run("ip", "link", "set", "wg0", "up", "mtu", "1420")
        for net in ("10.192.0.0/18", "fd00::/56"):
            made.run("ip", "route", "add", net, "dev", "wg0")
        yield made
    finally:
        if process is not None:
            process.kill()
            process.wait()
            # Killed, it leaves its socket behind, and the directory for such sockets is this machine's.
            Path("/var/run/wireguard/wg0.sock").unlink(missing_ok=True)
        subprocess.run(["ip", "netns", "del", made.netns], check=False)
