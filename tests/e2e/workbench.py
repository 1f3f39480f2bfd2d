"""A node as tests use it: containers with servers in them, and probes from one place to another."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import wait_until
from tests.testbed.testbed import Testbed

SERVER = """
import socket, threading, os
name = os.uname().nodename.encode()
def tcp():
    try:
        s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:
        s = socket.create_server(("", 80))
    while True:
        c, peer = s.accept()
        threading.Thread(target=serve, args=(c, peer), daemon=True).start()
def serve(c, peer):
    with c:
        data = c.recv(4096)
        body = name + b" " + peer[0].encode()
        head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(body)
        c.sendall((head if data.startswith((b"GET", b"HEAD")) else b"") + body)
def bound(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 80))
    return s
def udp(s):
    while True:
        data, peer = s.recvfrom(2048)
        s.sendto(name + b" " + peer[0].encode(), peer)
# All of UDP is there before TCP is: who finds TCP listening need not wait for the others.
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    try:
        threading.Thread(target=udp, args=(bound(family, address),), daemon=True).start()
    except OSError:
        pass
tcp()
"""
"""Answers on port 80, TCP and UDP, both families, with its host name and who it saw asking."""

PROBE = """
import concurrent.futures, json, socket, subprocess, sys
patience = float(sys.argv[2])
def probe(what):
    kind, address, port, source = what
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if kind == "icmp":
        options = ["-I", source] if source else []
        done = subprocess.run(["ping", "-c1", f"-W{patience:.0f}", *options, address], capture_output=True)
        return "ok" if done.returncode == 0 else ""
    try:
        s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(patience)
        if source: s.bind((source, 0))
        s.connect((address, port))
        s.sendall(b"hello\\n")
        return s.recv(2048).decode()
    except OSError as error:
        return ""
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(probe, json.loads(sys.argv[1])))))
"""
"""Tries each of a list of (kind, address, port, source) and prints what each got; nothing for no answer."""

PATIENT, BRIEF = 15.0, 1.5
"""Seconds until no answer is no answer: where one is due, however slow the machine, and where none may come."""


OURS = re.compile(r"(sp-|spv|spc)[0-9a-f]{12}$")
"""Names of bridges and of veth pairs."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to reach: ``kind`` is tcp, udp or icmp; ``source`` an address to ask from, if not one's own."""

    kind: str
    address: str
    port: int = 80
    source: str = ""


def everything(address: str, port: int = 80) -> list[Target]:
    """The three kinds of asking one address."""
    return [Target("tcp", address, port), Target("udp", address, port), Target("icmp", address)]


class Workbench:
    """A node of the testbed (the first one unless said otherwise), with what tests do to it."""

    def __init__(self, bed: Testbed, number: int = 1) -> None:
        self.bed = bed
        self.node = bed.nodes[number - 1]
        self.docker = self.node.docker
        self.try_docker = self.node.try_docker
        self.exec = self.node.exec

    @property
    def outside(self) -> str:
        """The namespace that plays the internet."""
        return self.bed.plan.switch

    def network(self, name: str, *options: str, driver: str = "stackpad") -> str:
        """Create a network; returns its id."""
        return self.docker("network", "create", "--driver", driver, *options, name).strip()

    def start(self, name: str, network: str, *options: str, command: Iterable[str] = ("sleep", "infinity")) -> str:
        """Start a container that stays; returns its id."""
        words = ["run", "--detach", "--init", "--name", name, "--hostname", name, "--network", network, *options]
        return self.docker(*words, images.TEST, *command).strip()

    def serve(self, name: str, network: str, *options: str) -> str:
        """Start a container that answers on port 80, and wait until it does; returns its IPv4 address."""
        self.start(name, network, *options, command=("python3", "-c", SERVER))
        self.wait_listening(name)
        return self.node.address_of(name, network)

    def wait_listening(self, name: str) -> None:
        """Return when the container's server listens."""
        look = "import socket; socket.create_connection(('127.0.0.1', 80), 1).close()"
        wait_until(f"{name} to listen", lambda: self.node.inside(name, "python3", "-c", look)[0] == 0)

    def ask(self, container: str, targets: Iterable[Target], patience: float = PATIENT) -> list[str]:
        """What a container gets from each target; empty where there is no answer."""
        return list(json.loads(self.docker("exec", container, "python3", "-c", PROBE, _list(targets), str(patience))))

    def reaches(self, container: str, *targets: Target) -> bool:
        """Whether a container gets an answer from all of the targets."""
        return all(self.ask(container, targets))

    def cut_off(self, container: str, *targets: Target) -> bool:
        """Whether a container gets an answer from none of the targets."""
        return not any(self.ask(container, targets, BRIEF))

    def ask_from_outside(self, *targets: Target, patience: float = PATIENT) -> list[str]:
        """What somebody beyond the node gets."""
        words = ["ip", "netns", "exec", self.outside, "python3", "-c", PROBE, _list(targets), str(patience)]
        return list(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))

    def ask_from_node(self, *targets: Target, patience: float = PATIENT) -> list[str]:
        """What a process on the node itself gets."""
        words = ["ip", "netns", "exec", self.node.spec.netns, "python3", "-c", PROBE, _list(targets), str(patience)]
        return list(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))

    @contextlib.contextmanager
    def node_service(self, port: int) -> Iterator[None]:
        """A server of the node's own, outside any container, on every address of it."""
        script = SERVER.replace("80", str(port))
        process = subprocess.Popen(["ip", "netns", "exec", self.node.spec.netns, "python3", "-c", script])
        try:
            wait_until("the node's server", lambda: self.ask_from_node(Target("tcp", "127.0.0.1", port))[0])
            yield
        finally:
            process.terminate()
            process.wait(60)

    def ports(self) -> list[dict[str, object]]:
        """What the plugin says is published."""
        return list(self.admin("/ports"))

    def admin(self, resource: str) -> Any:
        """What the plugin's own socket answers."""
        socket = f"{self.node.root}/run/stackpad/net.sock"
        done = subprocess.run(
            ["curl", "--silent", "--max-time", "30", "--unix-socket", socket, f"http://plugin{resource}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.stdout else []

    def admin_status(self) -> dict[str, object]:
        """What the plugin says of itself; empty while it does not answer."""
        return dict(self.admin("/status"))

    def wait_plugin(self) -> None:
        """Return when the plugin has reconciled."""
        wait_until("the plugin", lambda: bool(self.admin_status().get("ready")))

    def links(self) -> set[str]:
        """Our links in the node's namespace, the tunnel's left out."""
        listing = json.loads(self.exec("ip", "-j", "link").stdout)
        return {str(link["ifname"]) for link in listing if OURS.match(str(link["ifname"]))}

    def clear(self) -> None:
        """Remove every container and every network that is not Docker's own, and wait until our links are gone."""
        # A test that broke off may have left it so, and the next ones would say so instead of what they are about.
        self.docker("plugin", "enable", PLUGIN, check=False)
        containers = self.docker("ps", "--all", "--quiet").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)
        networks = self.docker("network", "ls", "--quiet", "--filter", "type=custom").split()
        if networks:
            self.docker("network", "rm", *networks)
        wait_until("our links to go", lambda: not self.links())


def eventually(condition: object, what: str = "the expected", timeout: float = 60.0) -> None:
    """Fail unless ``condition()`` becomes true."""
    wait_until(what, condition, timeout, 0.1)


def hold(seconds: float) -> None:
    """Let time pass where the claim is that nothing happens."""
    time.sleep(seconds)


def _list(targets: Iterable[Target]) -> str:
    return json.dumps([[t.kind, t.address, t.port, t.source] for t in targets])
