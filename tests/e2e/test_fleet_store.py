"""What there is before a cluster begins: an etcd of the operator's own, small blocks, a token as a setting, a NAT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest

from tests.e2e.life import Life
from tests.e2e.workbench import Target, eventually, everything, hold
from tests.etcd.server import Certificates
from tests.testbed import network, testbed
from tests.testbed.node import PLUGIN, Node
from tests.testbed.shell import run, say
from tests.testbed.testbed import Options, Testbed

FILES = Path("var/lib/store")
"""Where the certificates are on a node; the plugin sees it below ``/host``."""

SETTINGS = {"RANGE": "10.200.0.0/16", "BLOCK_PREFIX": "24", "MESH_METRICS": "on"}
SHOP = "shop-production"
ASK_US = ("--dns", "169.254.53.53")
"""These engines have no ``daemon.json`` of ours."""

NAT_SECONDS = int(os.environ.get("STACKPAD_NAT_SECONDS") or 10)
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


def behind_nat(bed: Testbed, node: Node) -> None:
    """Put a router between a node and the switch that gives every flow another port."""
    nat, inner, outer = f"{bed.plan.name}-nat", "192.168.77.1", bed.plan.gateway.rpartition(".")[0] + ".77"
    inside, outside = ["ip", "-n", nat], ["ip", "-n", bed.plan.switch]
    run("ip", "netns", "add", nat)
    run(*outside, "link", "set", node.name, "netns", nat)
    run(*outside, "link", "add", "nat", "type", "veth", "peer", "name", "outer", "netns", nat)
    run(*outside, "link", "set", "nat", "master", network.BRIDGE, "up")
    run(*inside, "link", "set", node.name, "up")
    run(*inside, "link", "set", "outer", "up")
    run(*inside, "addr", "add", f"{inner}/24", "dev", node.name)
    run(*inside, "addr", "add", f"{outer}/24", "dev", "outer")
    run(*inside, "route", "add", "default", "via", bed.plan.gateway)
    rules = """
    table ip nat {
      chain port { meta l4proto { tcp, udp } masquerade to :40000-60000 random; }
      chain out { type nat hook postrouting priority srcnat; oifname "outer" jump port; oifname "outer" masquerade; }
      chain unasked { type filter hook forward priority filter; iifname "outer" ct state new drop; }
    }"""
    enter = ["ip", "netns", "exec", nat]
    run(*enter, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    subprocess.run([*enter, "nft", "-f", "-"], input=rules, text=True, check=True)
    own = ["ip", "-n", node.spec.netns]
    run(*own, "addr", "flush", "dev", "eth0")
    run(*own, "addr", "add", "192.168.77.2/24", "dev", "eth0")
    run(*own, "route", "replace", "default", "via", inner)


def configure(life: Life, number: int, **settings: str) -> None:
    """Change the plugin's settings, as its documentation says."""
    bench = life.bench[number]
    bench.docker("plugin", "disable", "--force", PLUGIN)
    bench.docker("plugin", "set", PLUGIN, *(f"{name}={value}" for name, value in settings.items()))
    bench.docker("plugin", "enable", PLUGIN)
    bench.wait_plugin()


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Life, Members]]:
    """Three nodes, the store elsewhere; the second one joins by the setting ``JOIN``, the third one is behind a NAT."""
    if shutil.which("etcd") is None:
        pytest.skip("missing: etcd (package etcd-server)")
    made = testbed.make(f"t{os.getpid()}-store", 3, "debian12,forky,forky")
    with contextlib.ExitStack() as stack:
        stack.callback(made.down)
        made.up(Options(images=("test",), ingress=False, cluster=False))
        stack.callback(run, "ip", "netns", "del", f"{made.plan.name}-nat", check=False)
        behind_nat(made, made.nodes[2])
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
        ended, said = life.join(3, life.token(), "--no-daemon-json")
        assert ended == 0, said
        yield life, store


@pytest.mark.replay("S35")
def test_names_and_ways_with_a_store_elsewhere(members: tuple[Life, Members]) -> None:
    """Also while one of its members is away, each in turn."""
    life, store = members
    for number in (1, 2):
        life.bench[number].network(SHOP, "--ipam-driver", "stackpad")
        life.bench[number].serve(f"web{number}", SHOP, *ASK_US)
    address = life.bench[2].node.address_of("web2", SHOP)
    eventually(lambda: life.finds(1, "web1", "web2"), "the name of the other", 60)
    assert life.meet(1, "web1", address)
    assert not life.pids(1, "etcd"), "the embedded store does not run beside it"
    life.bench[1].network("outside", "--subnet", "172.31.8.0/24")
    for each in range(3):
        store.processes[each].send_signal(signal.SIGSTOP)
        try:
            life.bench[2].start(f"late{each}", SHOP)
            eventually(lambda: life.finds(1, "web1", f"late{each}"), "news with two members of three", 60)  # noqa: B023
            assert life.meet(1, "web1", address)
        finally:
            store.processes[each].send_signal(signal.SIGCONT)
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
    assert all(len(blocks[life.name(number)]) >= 3 for number in (1, 2)), blocks
    assert all(any(net.subnet_of(block) for held in blocks.values() for block in held) for net in found)  # type: ignore[arg-type]
    # A network of a later block is reached like any other.
    last = f"many-{MANY - 1}"
    for number in (1, 2):
        life.bench[number].serve(f"end{number}", last, *ASK_US)
    eventually(lambda: life.finds(1, "end1", "end2"), "the name in the new block", 60)
    assert life.meet(1, "end1", life.bench[2].node.address_of("end2", last))


def test_a_node_behind_a_nat_is_never_cut(members: tuple[Life, Members]) -> None:
    """Its port outside changes under running flows in both directions."""
    life, _ = members
    life.bench[3].network(SHOP, "--ipam-driver", "stackpad")
    life.bench[3].serve("web3", SHOP, *ASK_US)
    address = {number: life.bench[number].node.address_of(f"web{number}", SHOP) for number in (1, 3)}
    eventually(lambda: life.finds(1, "web1", "web3") and life.meet(1, "web1", address[3]), "the node behind the NAT", 60)

    def seen() -> str:
        rows = life.bench[1].admin("/cluster")["nodes"]
        return str(next(row["endpoint"] for row in rows if row["name"] == life.name(3)))

    outer, _, port = seen().rpartition(":")
    assert outer.endswith(".77")
    ping = ("ping", "-q", "-i", "0.1", "-c", str(NAT_SECONDS * 10), "-W", "5")
    with ThreadPoolExecutor() as pool:
        ways = ((1, "web1", address[3]), (3, "web3", address[1]))
        running = [
            pool.submit(life.bench[at].node.inside, who, *ping, whom, timeout=NAT_SECONDS + 60) for at, who, whom in ways
        ]
        hold(NAT_SECONDS / 2)
        forget = "from pyroute2 import NFCTSocket; NFCTSocket().flush()"
        run("ip", "netns", "exec", f"{life.bed.plan.name}-nat", sys.executable, "-c", forget)
        for each in running:
            counted = re.search(r"(\d+) packets transmitted, (\d+) received", each.result()[1])
            assert counted is not None, each.result()[1]
            say(f"behind a NAT, {NAT_SECONDS} s: {counted[0]}")
            assert int(counted[1]) - int(counted[2]) <= 3, counted[0]
    assert seen().rpartition(":")[0] == outer
    assert seen().rpartition(":")[2] != port


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
    eventually(lambda: len(life.bench[2].admin("/cluster")["nodes"]) == 2, f"the other to see it: {rows}", 30)
