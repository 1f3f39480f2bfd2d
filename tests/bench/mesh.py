"""Between nodes: ours beside a bare WireGuard pair and Docker's own overlay, on the same links, in turn.

``python -m tests.bench.mesh`` brings two nodes up, measures, and prints a table. The bare pair is made by hand with the
same wireguard-go, and is used from the nodes themselves: what is dearer than it is bridges and rules.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from plugin.wireguard.keys import generate, public_key
from tests.bench.measure import Series
from tests.bench.names import POLL
from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images, testbed
from tests.testbed.node import Node
from tests.testbed.shell import alive, run, say, spawn, step, wait_until
from tests.testbed.testbed import Options, Testbed

ENVIRONMENT = "bench-production"
PAIR = ("10.99.0.1", "10.99.0.2")
KINDS = ("bare WireGuard", "Docker's overlay", "stackpad")


class Mesh:
    """Two nodes with a server and a client each way."""

    def __init__(self, bed: Testbed, work: Path) -> None:
        self.bed, self.work = bed, work
        self.first, self.second = Workbench(bed, 1), Workbench(bed, 2)
        self._pids: list[int] = []

    @contextlib.contextmanager
    def bare_pair(self) -> Iterator[None]:
        """A WireGuard device on each node, made by hand."""
        keys = generate(), generate()
        try:
            for number, node in enumerate(self.bed.nodes):
                self._device(node, number, keys)
            yield
        finally:
            for pid in self._pids:
                with contextlib.suppress(OSError):
                    run("kill", str(pid), check=False)
            for pid in self._pids:
                wait_until("the end of wireguard-go", lambda pid=pid: not alive(pid), 10)

    def _device(self, node: Node, number: int, keys: tuple[str, str]) -> None:
        name, enter = f"wgb{number}", ["nsenter", f"--net=/run/netns/{node.spec.netns}"]
        (binary,) = (node.home / "data/plugins").glob("*/rootfs/usr/bin/wireguard-go")
        self._pids.append(spawn([*enter, binary, "-f", name], self.work / f"{name}.log"))
        wait_until(name, Path(f"/var/run/wireguard/{name}.sock").exists, 10)
        key = self.work / name
        key.write_text(keys[number])
        other = self.bed.nodes[1 - number]
        run(
            *enter, "wg", "set", name, "private-key", key, "listen-port", "51999", "peer", public_key(keys[1 - number]),
            "allowed-ips", f"{PAIR[1 - number]}/32", "endpoint", f"{other.address}:51999",
        )  # fmt: skip
        run(*enter, "ip", "addr", "add", f"{PAIR[number]}/24", "dev", name)
        run(*enter, "ip", "link", "set", name, "up", "mtu", "1420")

    def overlay(self) -> None:
        """Docker's own: a swarm of the two, and a network that containers may be attached to."""
        address = self.bed.nodes[0].address
        self.first.docker("swarm", "init", "--advertise-addr", address)
        token = self.first.docker("swarm", "join-token", "--quiet", "worker").strip()
        self.second.docker("swarm", "join", "--token", token, f"{address}:2377")
        self.first.docker("network", "create", "--driver", "overlay", "--attachable", "wide")

    def servers(self) -> dict[str, tuple[str, str]]:
        """An iperf3 server on the second node for each kind; returns client container and address, by kind."""
        for bench in (self.first, self.second):
            bench.network(ENVIRONMENT, "--ipam-driver", "stackpad")
        places = {KINDS[0]: "host", KINDS[1]: "wide", KINDS[2]: ENVIRONMENT}
        found = {}
        for number, (kind, network) in enumerate(places.items()):
            client, server = f"client{number}", f"server{number}"
            host = network == "host"
            for bench, name, command in (
                (self.second, server, ["iperf3", "--server", "--port", str(5300 + number)]),
                (self.first, client, ["sleep", "infinity"]),
            ):
                words = ["run", "--detach", "--name", name, "--network", network, images.TEST, *command]
                bench.docker(*words)
            address = PAIR[1] if host else self.second.node.address_of(server, network)
            found[kind] = client, address
        return found

    def throughput(self, client: str, address: str, port: int) -> float:
        """Gbit/s of one TCP stream for three seconds."""
        words = ["exec", client, "iperf3", "--client", address, "--port", str(port), "--time", "3", "--json"]
        return float(json.loads(self.first.docker(*words))["end"]["sum_received"]["bits_per_second"]) / 1e9

    def round_trip(self, client: str, address: str) -> float:
        """Microseconds, the mean of 200 pings."""
        said = self.first.docker("exec", client, "ping", "-q", "-c", "200", "-i", "0.005", address)
        return float(said.rpartition("= ")[2].split("/")[1]) * 1000

    def name_appears(self, number: int) -> tuple[float, float]:
        """Milliseconds from a container's start on one node to its name on the other, and from its end."""
        name = f"here{number}"
        poll = [self.first.node.client, "exec", "client2", "python3", "-c", POLL, name]
        environment = {"DOCKER_HOST": self.first.node.docker_host, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        self.second.docker("create", "--name", name, "--network", ENVIRONMENT, images.TEST, "sleep", "infinity")
        with subprocess.Popen([*poll, "there", "20"], stdout=subprocess.PIPE, text=True, env=environment) as asking:
            time.sleep(0.3)
            self.second.docker("start", name)
            came, _ = asking.communicate(timeout=40)
        started = _stamp(self.second.docker("inspect", "--format", "{{.State.StartedAt}}", name))
        with subprocess.Popen([*poll, "gone", "20"], stdout=subprocess.PIPE, text=True, env=environment) as asking:
            time.sleep(0.3)
            self.second.docker("kill", name)
            went, _ = asking.communicate(timeout=40)
        ended = _stamp(self.second.docker("inspect", "--format", "{{.State.FinishedAt}}", name))
        self.second.docker("rm", "--force", name)
        return (float(came) - started) * 1000, (float(went) - ended) * 1000


def _stamp(text: str) -> float:
    """Unix time of a moment as Docker writes it, with nanoseconds."""
    whole, _, fraction = text.strip().rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.UTC).timestamp()
    return moment + float(f"0.{fraction or 0}")


def measure(mesh: Mesh, rounds: int) -> Iterator[tuple[str, ...]]:
    """The rows: what, one for each kind, and the ratio of ours to the bare pair."""
    with mesh.bare_pair():
        mesh.overlay()
        ends = mesh.servers()
        eventually(lambda: all(mesh.round_trip(*end) > 0 for end in ends.values()), "all three to answer", 30)
        gbit: dict[str, list[float]] = {kind: [] for kind in KINDS}
        trips: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for position, kind in enumerate(KINDS):
                gbit[kind].append(mesh.throughput(*ends[kind], 5300 + position))
                trips[kind].append(mesh.round_trip(*ends[kind]))
        for what, found in (("TCP, one stream, Gbit/s", gbit), ("ping, µs", trips)):
            series = {kind: Series(tuple(values)) for kind, values in found.items()}
            ratio = series["stackpad"].median / series[KINDS[0]].median
            yield what, *(str(series[kind]) for kind in KINDS), f"{ratio:.2f}×"
    appear = [mesh.name_appears(number) for number in range(4 * rounds)]
    for what, values in (
        ("container's start to its name on the other node, ms", sorted(came for came, _ in appear)),
        ("container's end to its name's, ms", sorted(went for _, went in appear)),
    ):
        yield what, "", "", f"{Series(tuple(values))}, p99 {values[-1]:.0f}", ""


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mesh", description=__doc__)
    parser.add_argument("--engine", default="forky", help="for each node, with commas, or one for both")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    made = testbed.make("bench-mesh", 2, options.engine)
    made.up(Options(images=("test",), ingress=False))
    try:
        with tempfile.TemporaryDirectory() as work, step("measuring"):
            rows = list(measure(Mesh(made, Path(work)), options.rounds))
    finally:
        made.down()
    heads = ("", *KINDS, "to bare")
    for row in (heads, tuple("---" for _ in heads), *rows):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
