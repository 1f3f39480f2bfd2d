"""A whole testbed: up, down, and what it says about itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.testbed import network, plan
from tests.testbed.images import Images, build
from tests.testbed.node import Node
from tests.testbed.plan import BASE_DOMAIN, INTERNET_NAME, NAME_SERVER, NodePlan, Plan
from tests.testbed.proxy import Proxy
from tests.testbed.shell import Failed, alive, cache, need, run, say, spawn, step


def home() -> Path:
    """Where running testbeds keep their things; ``STACKPAD_TESTBEDS`` moves it. Short, for socket paths are."""
    return Path(os.environ.get("STACKPAD_TESTBEDS") or "/var/tmp/stackpad-testbeds")


@dataclass(frozen=True, slots=True)
class Options:
    """What a testbed is brought up with, beyond its plan; ``images`` by a word of their names."""

    plugin: bool = True
    ingress: bool = True
    images: tuple[str, ...] = ("test", "example", "ingress")
    cluster: bool = True
    """Make one cluster of several nodes."""

    keep: bool = False
    """Leave a testbed that does not come up as it is, to be looked at."""


class Testbed:
    """A testbed by its plan; tests hold one, the command line makes one from what is on disk."""

    __test__ = False

    def __init__(self, made: Plan) -> None:
        self.plan = made
        self.home = home() / made.name
        self.nodes = [Node(made, spec, self.home / spec.name) for spec in made.nodes]

    @property
    def proxy(self) -> Proxy:
        """Caddy and the ingress, on the first node."""
        return Proxy(self.nodes[0])

    @property
    def agents(self) -> list[Proxy]:
        """The other nodes' ingresses, which say what runs there."""
        return [Proxy(node) for node in self.nodes[1:]]

    def up(self, options: Options) -> None:
        """Bring it up; what has been made is taken down again if that fails."""
        try:
            need("dnsmasq", "ip", "nsenter", "unshare", "docker", "dockerd", "nft", "iptables")
            images = build()
            with step(f"testbed {self.plan.name}: {len(self.nodes)} node(s)"):
                network.lay(self.plan)
                self._serve_names()
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(lambda node: self._start(node, images, options), self.nodes))
                if options.cluster and options.plugin and len(self.nodes) > 1:
                    self.form_cluster()
                if options.ingress and options.plugin:
                    self.proxy.start()
                    for agent in self.agents if options.cluster else ():
                        agent.start_ingress()
            self._builder.unlink()
        except BaseException:
            for node in self.nodes:
                with contextlib.suppress(OSError, Failed):
                    say(f"{node.name}: {node.log(5)}")
            if options.keep:
                say("it did not come up, and is left as it is; `down` removes it")
            else:
                say("it did not come up; taking down what there is")
                self.down()
            raise

    def form_cluster(self) -> None:
        """One cluster of all nodes, each set up as its user would: init, tokens, joins, and a restart of each engine."""
        first, *others = self.nodes
        with step("cluster"):
            first.stackpad("node", "init", "--yes", configures=True)
            for node in others:
                token = first.stackpad("node", "token").stdout.strip()
                node.stackpad("node", "join", token, "--yes", configures=True)
        with step("engines with address pools and resolver"), ThreadPoolExecutor(2) as pool:
            list(pool.map(Node.restart_engine, self.nodes))

    @property
    def builder(self) -> int:
        """The process that is bringing it up, or died doing so; 0 once it is up."""
        try:
            return int(self._builder.read_text() or 0)
        except FileNotFoundError:
            return 0

    @property
    def whole(self) -> bool:
        """Whether it was brought up to the end, and no reboot of the machine has undone that since."""
        names = [self.plan.switch, *(node.spec.netns for node in self.nodes)]
        return not self._builder.exists() and all(Path("/run/netns", name).exists() for name in names)

    @property
    def _builder(self) -> Path:
        return self.home / "up.pid"

    def down(self) -> None:
        """Remove every process, mount, namespace, link and file of it; what is gone already is passed over."""
        if self.home.exists():
            for proxy in (self.proxy, *self.agents):
                with contextlib.suppress(Failed):
                    proxy.stop()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda node: node.end(), self.nodes))
        network.take_up(self.plan)
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.home}/"):
                run("umount", "-l", mounted, check=False)
        shutil.rmtree(self.home, ignore_errors=True)
        with contextlib.suppress(OSError):
            home().rmdir()

    def document(self) -> dict[str, Any]:
        """The testbed for a program to read: nodes with their sockets, and how to reach its web."""
        return {
            "name": self.plan.name,
            "nodes": [
                {
                    "name": node.name,
                    "docker_host": node.docker_host,
                    "netns": node.spec.netns,
                    "address": node.address,
                    "address6": node.address6,
                    "engine": node.engine_version(),
                    "root": str(node.root),
                }
                for node in self.nodes
            ],
            "base_domain": BASE_DOMAIN,
            "https": f"https://{self.nodes[0].address}:443",
            "ca": str(self.proxy.ca),
        }

    def _serve_names(self) -> None:
        """The internet's name server: one name, and of every other it says that there is none."""
        words = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file="]
        words += [f"--listen-address={NAME_SERVER}", "--local=/#/", f"--host-record={INTERNET_NAME},{NAME_SERVER}"]
        words += [f"--mx-host={INTERNET_NAME},{INTERNET_NAME}"]
        enter = ["ip", "netns", "exec", self.plan.switch]
        spawn([*enter, "dnsmasq", "--conf-file=/dev/null", *words], self.home / "dnsmasq.log")

    def _start(self, node: Node, images: Images, options: Options) -> None:
        with step(f"{node.name}: engine {node.spec.engine}"):
            node.start()
        with step(f"{node.name}: images{' and plugin' if options.plugin else ''}"):
            node.load(images, options.images, plugin=options.plugin)


def running() -> Iterator[Testbed]:
    """The testbeds of this machine."""
    for file in sorted(home().glob("*/plan.json")):
        with contextlib.suppress(ValueError, KeyError):
            yield _load(file)


def find(name: str) -> Testbed | None:
    """A running testbed by its name."""
    return next((testbed for testbed in running() if testbed.plan.name == name), None)


def make(name: str, count: int, engines: str) -> Testbed:
    """A testbed to be brought up; its name, and a number no other on this machine has, are its own from here on."""
    with (cache() / "testbeds.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        links = re.findall(r"\bsptest(\d+)", run("ip", "-o", "link").stdout)
        number = plan.free_number({testbed.plan.number for testbed in running()} | set(map(int, links)))
        made = Testbed(plan.make(name, number, count, engines))
        try:
            made.home.mkdir(parents=True)
        except FileExistsError as error:
            raise Failed(f"there is a testbed {name} already; `down` removes it") from error
        (made.home / "up.pid").write_text(str(os.getpid()))
        (made.home / "plan.json").write_text(json.dumps(asdict(made.plan)))
        return made


def bring_up(name: str, count: int, engines: str, options: Options) -> Testbed:
    """The testbed of this name, brought up where it is not.

    What was left half-made, by a process that was killed or by a reboot of the machine, is taken down first.
    """
    there = find(name)
    if there is not None and there.whole:
        say(f"testbed {name} is up already; `down` first for another one")
        return there
    if there is not None:
        if alive(there.builder):
            raise Failed(f"process {there.builder} is bringing testbed {name} up at this moment; try again when it has")
        say(f"testbed {name} was left half-made; taking it down first")
        there.down()
    made = make(name, count, engines)
    made.up(options)
    return made


def _load(file: Path) -> Testbed:
    saved = json.loads(file.read_text())
    nodes = tuple(NodePlan(**node) for node in saved.pop("nodes"))
    return Testbed(Plan(**saved, nodes=nodes))
