"""The measurements: each does the same with both drivers in turn, so that a noisy machine is noisy for both."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import ssl
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.types import IPAMConfig, IPAMPool

from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images
from tests.testbed.shell import say

DRIVERS = {"bridge": "bridge", "stackpad": "stackpad"}
PING_PONG = """
import socket, sys, time, statistics, threading
def serve():
    s = socket.create_server(("", 7))
    while True:
        c, _ = s.accept(); c.setsockopt(6, 1, 1)
        while (d := c.recv(64)): c.sendall(d)
if sys.argv[1] == "serve": serve()
c = socket.create_connection((sys.argv[2], 7)); c.setsockopt(6, 1, 1)
times = []
for _ in range(4000):
    a = time.perf_counter(); c.sendall(b"x"); c.recv(64); times.append(time.perf_counter() - a)
print(statistics.median(times) * 1e6)
"""


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one thing, in one unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """Median, and the least and greatest value."""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        low, high = min(self.values), max(self.values)
        return f"{self.median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value that ``part`` of ``ordered`` values, the least first, do not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


class Bench:
    """One node, driven through the Engine API so that no client's start-up is measured."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.api = docker.APIClient(base_url=bench.node.docker_host, version="1.41", timeout=120)

    def create_and_remove(self, rounds: int = 15) -> dict[str, dict[str, Series]]:
        """Milliseconds of `network create` and `network rm`, and of both together."""
        found: dict[str, list[tuple[float, float]]] = {driver: [] for driver in DRIVERS}
        for number in range(rounds + 1):
            for driver in DRIVERS:
                began = time.perf_counter()
                network = self._network(f"bench-{driver}", driver, f"10.5.{number}.0/24")
                made = time.perf_counter()
                self.api.remove_network(network)
                gone = time.perf_counter()
                time.sleep(0.05)
                if number:  # the first warms up
                    found[driver].append(((made - began) * 1e3, (gone - made) * 1e3))
        return {
            driver: {
                "create": Series(tuple(create for create, _ in pairs)),
                "rm": Series(tuple(remove for _, remove in pairs)),
                "both": Series(tuple(create + remove for create, remove in pairs)),
            }
            for driver, pairs in found.items()
        }

    def start_share(self, rounds: int = 15) -> dict[str, Series]:
        """Milliseconds of a container's start on the network of each driver, and on none."""
        networks = {
            driver: self._network(f"bench-{driver}", driver, f"10.6.{n}.0/24") for n, driver in enumerate(DRIVERS)
        }
        found: dict[str, list[float]] = {name: [] for name in ("none", *DRIVERS)}
        for number in range(rounds + 1):
            for name, values in found.items():
                mode = "none" if name == "none" else f"bench-{name}"
                config = self.api.create_host_config(network_mode=mode)
                container = self.api.create_container(images.TEST, ["sleep", "60"], host_config=config)["Id"]
                began = time.perf_counter()
                self.api.start(container)
                took = (time.perf_counter() - began) * 1e3
                self.api.remove_container(container, force=True)
                time.sleep(0.15)
                if number:
                    values.append(took)
        for network in networks.values():
            self.api.remove_network(network)
        return {name: Series(tuple(values)) for name, values in found.items()}

    def traffic(self, rounds: int = 7) -> dict[str, dict[str, Series]]:
        """Gbit/s of one TCP stream and microseconds of a one-byte round trip, container to container."""
        for number, driver in enumerate(DRIVERS):
            self._network(f"bench-{driver}", driver, f"10.7.{number}.0/24")
            for side, command in (
                ("iperf", ["iperf3", "--server"]),
                ("pong", ["python3", "-c", PING_PONG, "serve"]),
                ("client", ["sleep", "600"]),
            ):
                self.bench.start(f"{driver}-{side}", f"bench-{driver}", command=command)
        found: dict[str, dict[str, list[float]]] = {driver: {"gbit": [], "rtt": []} for driver in DRIVERS}
        time.sleep(1)
        for number in range(rounds + 1):
            for driver, values in found.items():
                there = self.bench.node.address_of(f"{driver}-iperf", f"bench-{driver}")
                text = self.bench.docker("exec", f"{driver}-client", "iperf3", "-c", there, "-t", "2", "-J")
                gbit = json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e9
                there = self.bench.node.address_of(f"{driver}-pong", f"bench-{driver}")
                rtt = float(self.bench.docker("exec", f"{driver}-client", "python3", "-c", PING_PONG, "ask", there))
                if number:
                    values["gbit"].append(gbit)
                    values["rtt"].append(rtt)
        self.bench.clear()
        return {d: {what: Series(tuple(v)) for what, v in values.items()} for d, values in found.items()}

    def first_page(self, rounds: int = 20, hosts: int = 10) -> Series:
        """Milliseconds from a container's start event to the first HTTPS 200, with ``hosts`` hosts there already."""
        self.bench.network("busy-production")
        serve = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]
        web = ["--label", "stackpad.type=web", "--label", "stackpad.port=80"]
        for number in range(hosts):
            self.bench.start(
                f"host-{number}", "busy-production", *web, "--label", f"stackpad.project=h{number}", command=serve
            )
        eventually(lambda: self.page(f"h{hosts - 1}.acme.stackpad.test") == 200, "the last host")
        found = []
        for number in range(rounds):
            host, name = f"new{number}.acme.stackpad.test", f"new-{number}"
            labels = [*web, "--label", f"stackpad.project=new{number}"]
            self.bench.docker("create", "--name", name, "--network", "busy-production", *labels, images.TEST, *serve)
            with self.started(name) as event:
                self.api.start(name)
                while self.page(host) != 200:
                    time.sleep(0.002)
                answered = time.time()
                eventually(lambda e=event: bool(e), "the start event")
            found.append((answered - event[0]) * 1e3)
            self.bench.docker("rm", "--force", name)
            time.sleep(0.6)
        self.bench.clear()
        return Series(tuple(found))

    def many_networks(self, many: int = 1000, sample: int = 15) -> dict[str, object]:
        """Milliseconds of a create with few and with many networks, the plugin's memory (MB), and its restart (ms)."""
        made: list[str] = []

        def create(count: int) -> list[float]:
            times = []
            for _ in range(count):
                began = time.perf_counter()
                config = IPAMConfig(driver="stackpad")
                made.append(self.api.create_network(f"many-{len(made)}", driver="stackpad", ipam=config)["Id"])
                times.append((time.perf_counter() - began) * 1e3)
            return times

        create(10)
        few = Series(tuple(create(sample)))
        while len(made) < many:
            create(min(100, many - len(made)))
            say(f"{len(made)} networks")
        crowd = Series(tuple(create(sample)))
        pid = self.bench.node.plugin_pid()
        memory = next(
            int(line.split()[1]) / 1024
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self._plugin_answers(pid), "the plugin to answer", 60)
        answers = (time.perf_counter() - began) * 1e3
        self.bench.wait_plugin()
        ready = (time.perf_counter() - began) * 1e3
        for network in made:
            self.api.remove_network(network)
        return {"few": few, "many": crowd, "memory": memory, "answers": answers, "ready": ready}

    def _plugin_answers(self, before: int) -> bool:
        try:
            return self.bench.node.plugin_pid() != before and bool(self.bench.admin("/status"))
        except Exception:
            return False

    def _network(self, name: str, driver: str, subnet: str) -> str:
        config = IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)])
        return str(self.api.create_network(name, driver=driver, ipam=config)["Id"])

    def page(self, host: str) -> int:
        """The status of a host's page over a new connection; 0 without an answer."""
        context = ssl.create_default_context(cafile=str(self.bench.bed.proxy.ca))
        connection = _Resolved(host, self.bench.node.address, context)
        try:
            connection.request("GET", "/hostname")
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    @contextlib.contextmanager
    def started(self, name: str) -> Iterator[list[float]]:
        """Will hold the time of the container's start event, seconds."""
        found: list[float] = []
        stream = docker.APIClient(base_url=self.bench.node.docker_host, version="1.41").events(
            decode=True, filters={"event": "start", "container": name}
        )

        def listen() -> None:
            with contextlib.suppress(Exception):
                for event in stream:
                    found.append(event["timeNano"] / 1e9)
                    return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        time.sleep(0.1)
        yield found
        stream.close()


class _Resolved(http.client.HTTPSConnection):
    """Goes to an address, and says the name in TLS and HTTP."""

    def __init__(self, host: str, address: str, context: ssl.SSLContext) -> None:
        super().__init__(host, timeout=5, context=context)
        self._address, self._own_context = address, context

    def connect(self) -> None:
        import socket

        plain = socket.create_connection((self._address, 443), 5)
        self.sock = self._own_context.wrap_socket(plain, server_hostname=self.host)
