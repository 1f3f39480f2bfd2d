"""Between nodes: ours beside a bare WireGuard pair and Docker's own overlay, on the same links, in turn.

``python -m tests.bench.mesh`` brings three nodes up, measures, and prints tables. The bare pair is made by hand with the
same wireguard-go and MTU on the same links. It is used from the nodes themselves, and once more from containers on
Docker's own bridges with routes between them: so one sees what a bridge costs, and what we do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from plugin.wireguard.keys import generate, public_key
from tests.bench.measure import Series, percentile
from tests.bench.names import POLL
from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images, testbed
from tests.testbed.node import Node
from tests.testbed.shell import alive, run, say, spawn, step, wait_until
from tests.testbed.testbed import Options, Testbed

ENVIRONMENT = "bench-production"
LEASE = 10.0
"""Seconds; see docs/store.md."""

PAIR = ("10.99.0.1", "10.99.0.2")
BEHIND = ("10.98.0.0/24", "10.98.1.0/24")
KINDS = ("bare WireGuard", "the same, Docker's bridges", "Docker's overlay", "stackpad")


class Mesh:
    """Two nodes with a server and a client each way."""

    def __init__(self, bed: Testbed, work: Path) -> None:
        self.bed, self.work = bed, work
        self.first, self.second, self.third = (Workbench(bed, number) for number in (1, 2, 3))
        self._pids: list[int] = []

    @contextlib.contextmanager
    def bare_pair(self) -> Iterator[None]:
        """A WireGuard device on each node, made by hand."""
        keys = generate(), generate()
        try:
            for number, node in enumerate(self.bed.nodes[:2]):
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
            "allowed-ips", f"{PAIR[1 - number]}/32,{BEHIND[1 - number]}", "endpoint", f"{other.address}:51999",
        )  # fmt: skip
        run(*enter, "ip", "addr", "add", f"{PAIR[number]}/24", "dev", name)
        run(*enter, "ip", "link", "set", name, "up", "mtu", "1420")
        run(*enter, "ip", "route", "add", BEHIND[1 - number], "dev", name)

    def bridges(self) -> None:
        """Docker's own on both nodes, reachable from each other by the bare pair."""
        for number, bench in enumerate((self.first, self.second)):
            options = ("gateway_mode_ipv4=nat-unprotected", "enable_ip_masquerade=false")
            words = [word for option in options for word in ("--opt", f"com.docker.network.bridge.{option}")]
            mtu = ["--opt", "com.docker.network.driver.mtu=1420"]
            bench.docker("network", "create", *words, *mtu, "--subnet", BEHIND[number], "plain")
            netns = ["nsenter", f"--net=/run/netns/{bench.node.spec.netns}"]
            run(*netns, "iptables", "-I", "DOCKER-USER", "-d", "10.98.0.0/16", "-j", "ACCEPT")

    def overlay(self) -> None:
        """Docker's own: a swarm of the two, and a network that containers may be attached to."""
        address = self.bed.nodes[0].address
        self.first.docker("swarm", "init", "--advertise-addr", address)
        token = self.first.docker("swarm", "join-token", "--quiet", "worker").strip()
        self.second.docker("swarm", "join", "--token", token, f"{address}:2377")
        self.first.docker("network", "create", "--driver", "overlay", "--attachable", "wide")
        there = ("network", "inspect", "docker_gwbridge")
        # The engine makes this one in the background, with a range of its pools.
        for engine in (self.first.try_docker, self.second.try_docker):
            eventually(lambda ask=engine: ask(*there).returncode == 0, "the swarm's bridge", 30)

    def servers(self) -> dict[str, tuple[str, str]]:
        """An iperf3 server on the second node for each kind; returns client container and address, by kind."""
        for bench in (self.first, self.second, self.third):
            bench.network(ENVIRONMENT, "--ipam-driver", "stackpad")
        for bench in (self.first, self.third):
            bench.docker("run", "--detach", "--name", "asker", "--network", ENVIRONMENT, images.TEST, "sleep", "infinity")
        places = dict(zip(KINDS, ("host", "plain", "wide", ENVIRONMENT), strict=True))
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

    def answers(self, client: str, address: str) -> bool:
        """Whether there is an answer at all."""
        return self.first.try_docker("exec", client, "ping", "-c", "1", "-W", "1", address).returncode == 0

    def round_trip(self, client: str, address: str) -> float:
        """Microseconds, the mean of 200 pings."""
        said = self.first.docker("exec", client, "ping", "-q", "-c", "200", "-i", "0.005", address)
        return float(said.rpartition("= ")[2].split("/")[1]) * 1000

    def name_appears(self, number: int) -> tuple[float, float]:
        """Milliseconds from the engine's word that a container runs to its name on all other nodes, and of its end."""
        name, bench = f"here{number}", self.second
        bench.docker("create", "--name", name, "--network", ENVIRONMENT, images.TEST, "sleep", "infinity")
        since = time.time() - 1
        came = self._poll(name, "there", lambda: bench.docker("start", name))
        went = self._poll(name, "gone", lambda: bench.docker("kill", name))
        of_it = ("--filter", f"container={name}", "--filter", "type=container", "--format", "{{json .}}")
        told = bench.docker("events", "--since", f"{since:.0f}", "--until", f"{time.time():.3f}", *of_it)
        events = {event["Action"]: event["timeNano"] / 1e9 for event in map(json.loads, told.splitlines())}
        bench.docker("rm", "--force", name)
        return (came - events["start"]) * 1000, (went - events["die"]) * 1000

    def node_dies(self) -> tuple[float, float, float]:
        """Seconds from a plugin's death to its names' end on both others; to their return, from its start and its sign.

        Its sign of life is the record that it writes when it is back in touch with the store. The engine is stopped
        meanwhile, so that it does not start the plugin again at once.
        """
        bench = self.second
        engine = int((bench.node.home / "docker.pid").read_text())
        os.kill(engine, signal.SIGSTOP)
        try:
            killed = time.time()
            gone = self._poll("lasting", "gone", lambda: os.kill(bench.node.plugin_init(), signal.SIGKILL), 60) - killed
        except BaseException:
            os.kill(engine, signal.SIGCONT)
            raise
        there = self._poll("lasting", "there", lambda: os.kill(engine, signal.SIGCONT), 60)
        ticks = int(Path(f"/proc/{bench.node.plugin_pid()}/stat").read_text().rpartition(")")[2].split()[19])
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
        return gone, there - started, there - self._sign_of_life(bench)

    def _sign_of_life(self, bench: Workbench) -> float:
        """When a node's lease began, as its record in the store says."""
        (row,) = [row for row in bench.admin("/cluster")["nodes"] if row["self"]]
        store = f"unix://{self.first.node.root}/run/stackpad/etcd/client:0"
        key = f"/stackpad/1/alive/{row['id']}"
        return float(json.loads(run("etcdctl", "--endpoints", store, "get", "--print-value-only", key).stdout)["since"])

    def _poll(self, name: str, what: str, action: Callable[[], object], patience: float = 20) -> float:
        """When a name was, or was not any more, on the last of the other nodes."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        asking = []
        for bench in (self.first, self.third):
            words = [bench.node.client, "exec", "asker", "python3", "-c", POLL, name, what, str(patience)]
            own = {**environment, "DOCKER_HOST": bench.node.docker_host}
            asking.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=own))
        time.sleep(0.4)
        action()
        return max(float(process.communicate(timeout=patience + 20)[0]) for process in asking)


def traffic(mesh: Mesh, rounds: int) -> Iterator[tuple[str, ...]]:
    """Rows: what, one value for each kind, the ratio of ours to the bare pair, the goal."""
    with mesh.bare_pair():
        mesh.bridges()
        mesh.overlay()
        ends = mesh.servers()
        eventually(lambda: all(mesh.answers(*end) for end in ends.values()), "all of them to answer", 30)
        gbit: dict[str, list[float]] = {kind: [] for kind in KINDS}
        trips: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for position, kind in enumerate(KINDS):
                gbit[kind].append(mesh.throughput(*ends[kind], 5300 + position))
                trips[kind].append(mesh.round_trip(*ends[kind]))
        for what, found, goal in (("TCP, one stream, Gbit/s", gbit, 0.97), ("ping, µs", trips, 1.05)):
            series = {kind: Series(tuple(values)) for kind, values in found.items()}
            ratio = series["stackpad"].median / series[KINDS[0]].median
            met = ratio >= goal if goal < 1 else ratio <= goal
            judged = f"{'≥' if goal < 1 else '≤'} {goal:.2f}× {'met' if met else '**missed**'}"
            yield what, *(str(series[kind]) for kind in KINDS), f"{ratio:.2f}×", judged


def names(mesh: Mesh, number: int) -> Iterator[tuple[str, ...]]:
    """Rows: what, what was found, the goal."""
    found = [mesh.name_appears(turn) for turn in range(number)]
    for what, values in (
        ("container started, to its name on both other nodes, ms", sorted(came for came, _ in found)),
        ("container ended, to its name's end there, ms", sorted(went for _, went in found)),
    ):
        half, most = percentile(values, 0.5), percentile(values, 0.99)
        met = "met" if half < 50 and most < 250 else "**missed**"
        yield f"3 nodes, {what}", f"p50 {half:.0f}, p99 {most:.0f}", f"p50 < 50, p99 < 250 {met}"


def deaths(mesh: Mesh, number: int) -> Iterator[tuple[str, ...]]:
    """Rows: what becomes of a node's names when its plugin is killed and kept down, and when it runs again."""
    mesh.second.start("lasting", ENVIRONMENT)
    found = [mesh.node_dies() for _ in range(number)]
    mesh.second.docker("rm", "--force", "lasting")
    gone, started, signed = (Series(tuple(values)) for values in zip(*found, strict=True))
    met = "met" if max(gone.values) <= LEASE + 1 else "**missed**"
    yield "3 nodes, plugin killed, to its names' end on both other nodes, s", str(gone), f"≤ {LEASE + 1:.0f} {met}"
    met = "met" if max(signed.values) <= 1 else "**missed**"
    back = f"{signed} after its sign of life, {started} after its process began"
    yield "3 nodes, the plugin is back, to its names there, s", back, f"≤ 1 after its sign of life {met}"


def measure(engine: str, rounds: int, number: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Traffic's rows, and names', on a testbed of their own."""
    made = testbed.make("bench-mesh", 3, engine)
    made.up(Options(images=("test",), ingress=False))
    try:
        with tempfile.TemporaryDirectory() as work:
            mesh = Mesh(made, Path(work))
            with step("traffic between nodes"):
                flows = list(traffic(mesh, rounds))
            with step("names between nodes"):
                found = list(names(mesh, number))
            with step("a node that dies"):
                return flows, [*found, *deaths(mesh, 5)]
    finally:
        made.down()


HEADS = ("", *KINDS, "ours to bare", "goal")


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mesh", description=__doc__)
    parser.add_argument("--engine", default="forky", help="for each node, with commas, or one for all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--names", type=int, default=30, help="containers started and ended")
    options = parser.parse_args()
    flows, found = measure(options.engine, options.rounds, options.names)
    for row in (HEADS, tuple("---" for _ in HEADS), *flows, *found):
        print("| " + " | ".join(row) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
