"""What is set before a cluster begins: an etcd of the operator's own, small blocks, a token as a setting, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest

from tests.e2e.test_fleet_life import Life
from tests.e2e.workbench import Target, eventually, everything
from tests.etcd.server import Certificates
from tests.testbed import testbed
from tests.testbed.node import PLUGIN
from tests.testbed.shell import run
from tests.testbed.testbed import Options, Testbed

FILES = Path("var/lib/store")
"""Where the certificates are on a node; the plugin sees it below ``/host``."""

SETTINGS = {"RANGE": "10.200.0.0/16", "BLOCK_PREFIX": "24", "MESH_METRICS": "on"}
SHOP = "shop-production"
MANY = 9
"""Networks, of which a block of /24 has room for three beside the node's own part."""


class Members:
    """Three etcd on the switch, outside of every node, which want certificates of their clients."""

    def __init__(self, bed: Testbed, directory: Path) -> None:
        self._bed, self._directory, self._address = bed, directory, bed.plan.gateway
        self.certificates = Certificates(directory)
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def urls(self) -> str:
        """As the setting has them."""
        return ",".join(f"https://{self._address}:{2379 + 10 * number}" for number in range(3))

    def start(self) -> None:
        """Start all three."""

        async def certify() -> None:
            made = self.certificates
            await made.make()
            await made.sign(made.server, made.server_key, f"IP:{self._address}")

        asyncio.run(certify())
        cluster = ",".join(f"m{number}=http://{self._address}:{2380 + 10 * number}" for number in range(3))
        tls: list[str | Path] = ["--cert-file", self.certificates.server, "--key-file", self.certificates.server_key]
        tls += ["--trusted-ca-file", self.certificates.ca, "--client-cert-auth"]
        for number in range(3):
            client, peer = (f"{kind}://{self._address}:{port + 10 * number}" for kind, port in _PORTS)
            words: list[str | Path] = [
                "etcd",
                "--name",
                f"m{number}",
                "--data-dir",
                self._directory / f"m{number}",
                "--logger",
                "zap",
            ]
            words += ["--listen-client-urls", client, "--advertise-client-urls", client, "--initial-cluster", cluster]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, *tls]
            with (self._directory / f"m{number}.log").open("wb") as log:
                enter = ["ip", "netns", "exec", self._bed.plan.switch]
                self.processes.append(subprocess.Popen([*enter, *words], stdout=log, stderr=log, env=dict(os.environ)))

    def end(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.wait()


_PORTS = (("https", 2379), ("http", 2380))


def configure(life: Life, number: int, **settings: str) -> None:
    """Change the plugin's settings, as its documentation says."""
    bench = life.bench[number]
    bench.docker("plugin", "disable", "--force", PLUGIN)
    bench.docker("plugin", "set", PLUGIN, *(f"{name}={value}" for name, value in settings.items()))
    bench.docker("plugin", "enable", PLUGIN)
    bench.wait_plugin()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Life, Members]]:
    """Two nodes whose cluster has its store elsewhere; the second one has joined by the setting ``JOIN``."""
    if shutil.which("etcd") is None:
        pytest.skip("missing: etcd (package etcd-server)")
    made = testbed.make(f"t{os.getpid()}-store", 2, "debian12,forky")
    with contextlib.ExitStack() as stack:
        stack.callback(made.down)
        made.up(Options(images=("test",), ingress=False, cluster=False))
        store = Members(made, tmp_path_factory.mktemp("store"))
        stack.callback(store.end)
        store.start()
        life = Life(made)
        names = {"STORE_CA": "ca.pem", "STORE_CERT": "client.pem", "STORE_KEY": "client.key"}
        for number, node in enumerate(made.nodes, 1):
            there = node.root / FILES
            there.mkdir(mode=0o700, parents=True)
            for name in names.values():
                shutil.copy(store.certificates.directory / name, there / name)
            files = {setting: f"/host/{FILES}/{name}" for setting, name in names.items()}
            configure(life, number, STORE=store.urls, **files, **SETTINGS)
        made.nodes[0].stackpad("node", "init", "--yes", "--no-daemon-json")
        configure(life, 2, JOIN=life.token())
        eventually(lambda: life.nodes().get(life.name(2)) == "alive", "the second node to join", 60)
        yield life, store


def test_names_and_ways_with_a_store_elsewhere(members: tuple[Life, Members]) -> None:
    """Also while one of its members is away."""
    life, store = members
    for number in (1, 2):
        life.bench[number].network(SHOP, "--ipam-driver", "stackpad")
        life.bench[number].serve(f"web{number}", SHOP)
    address = life.bench[2].node.address_of("web2", SHOP)
    eventually(lambda: life.finds(1, "web1", "web2"), "the name of the other", 60)
    assert life.meet(1, "web1", address)
    assert not life.pids(1, "etcd"), "the embedded store does not run beside it"
    store.processes[0].send_signal(signal.SIGSTOP)
    try:
        life.bench[2].start("late", SHOP)
        eventually(lambda: life.finds(1, "web1", "late"), "news with two members of three", 60)
        life.bench[1].network("outside", "--subnet", "172.31.8.0/24")
    finally:
        store.processes[0].send_signal(signal.SIGCONT)
    taken = life.bench[2].try_docker("network", "create", "--driver", "stackpad", "--subnet", "172.31.8.0/25", "x")
    assert life.name(1) in taken.stderr


def test_a_node_gets_another_block_when_its_own_is_full(members: tuple[Life, Members]) -> None:
    life, _ = members
    found = []
    for number in (1, 2):
        for each in range(MANY):
            life.bench[number].network(f"many-{each}", "--ipam-driver", "stackpad")
            listed = life.bench[number].docker("network", "inspect", f"many-{each}", "--format", "{{json .IPAM.Config}}")
            found.append(ip_network(json.loads(listed)[0]["Subnet"]))
    assert not [pair for pair in combinations(found, 2) if pair[0].overlaps(pair[1])]
    rows = life.bench[1].admin("/cluster")["nodes"]
    blocks = {row["name"]: [ip_network(text) for text in row["blocks"] if "." in text] for row in rows}
    assert all(len(held) >= 3 for held in blocks.values()), blocks
    assert all(any(net.subnet_of(block) for held in blocks.values() for block in held) for net in found)  # type: ignore[arg-type]
    # A network of a later block is reached like any other.
    last = f"many-{MANY - 1}"
    for number in (1, 2):
        life.bench[number].serve(f"end{number}", last)
    eventually(lambda: life.finds(1, "end1", "end2"), "the name in the new block", 60)
    assert life.meet(1, "end1", life.bench[2].node.address_of("end2", last))


def test_metrics_are_for_members_only(members: tuple[Life, Members]) -> None:
    life, _ = members
    rows = life.bench[2].admin("/cluster")["nodes"]
    mesh = next(row["mesh"][0] for row in rows if row["name"] == life.name(1))
    words = ["ip", "netns", "exec", life.bench[2].node.spec.netns, "curl", "--silent", "--max-time", "10"]
    assert "stackpad_" in run(*words, f"http://{mesh}:9483/metrics").stdout
    for number in (1, 2):
        assert life.bench[number].cut_off(f"web{number}", Target("tcp", mesh, 9483), *everything(mesh))
    assert life.bench[1].ask_from_outside(Target("tcp", life.bench[1].node.address, 9483), patience=1.5) == [""]


def test_leaving_a_cluster_with_a_store_elsewhere(members: tuple[Life, Members]) -> None:
    """The node that began it may go: the store is not with it."""
    life, _ = members
    life.bench[1].node.stackpad("node", "leave", "--yes", configures=True)
    rows = life.bench[2].admin("/cluster")["nodes"]
    eventually(lambda: len(life.bench[2].admin("/cluster")["nodes"]) == 1, f"the other to see it: {rows}", 30)
