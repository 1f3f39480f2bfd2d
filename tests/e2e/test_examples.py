"""The guides of ``examples/``: every command in them, as it stands there, on real engines with a real Caddy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.visitor import forget_domains, routes
from tests.e2e.workbench import Workbench, eventually
from tests.guide import Step, sections
from tests.load import Load
from tests.testbed import images
from tests.testbed.node import Node
from tests.testbed.shell import ROOT, Failed, alive, spawn, wait_until
from tests.testbed.testbed import Testbed

BASE = "example.org"
NAMES = "127.0.0.54"
"""Where the domain's name server of the tests is, on the node."""

SYSTEMCTL = """#!/bin/sh
# Stands for systemd, which no namespace has: what its unit for Caddy does, with our file beside it.
stop() {
  [ ! -e /run/caddy.pid ] || {
    kill "$(cat /run/caddy.pid)"
    while kill -0 "$(cat /run/caddy.pid)"; do sleep 0.1; done
  } 2> /dev/null
}
case "$1" in
  daemon-reload) ;;
  stop) stop; rm -f /run/caddy.pid ;;
  restart)
    [ -e /run/caddy.pid ] || rm -rf /run/caddy
    stop
    for line in RuntimeDirectory=caddy RuntimeDirectoryPreserve=yes; do
      grep -qx "$line" /etc/systemd/system/caddy.service.d/stackpad.conf || exit 1
    done
    mkdir -p -m 750 /run/caddy /var/lib/caddy
    export HOME=/var/lib/caddy XDG_DATA_HOME=/var/lib/caddy
    setsid caddy run --config /etc/caddy/Caddyfile > /run/caddy.log 2>&1 < /dev/null &
    echo $! > /run/caddy.pid
    while [ ! -S /run/caddy/admin.sock ]; do sleep 0.1; done ;;
  reload) caddy reload --config /etc/caddy/Caddyfile --force ;;
esac
"""


class Guide:
    """A guide on its nodes; ``places`` are nodes by the word before the prompt."""

    def __init__(self, name: str, places: dict[str, Node], work: Path, *, ca: Path | None) -> None:
        text = (ROOT / "examples" / name / "README.md").read_text()
        self._sections, self._places, self._work = list(sections(text)), places, work
        self._before: dict[str, list[str]] = {place: [f"cd {ROOT}", "export TLS=internal"] for place in places}
        trust = "insecure" if ca is None else f'cacert = "{ca}"'
        # Names resolve nowhere here: everything is at the node where visitors come in.
        first = next(iter(places.values()))
        (work / ".curlrc").write_text(f'{trust}\nconnect-to = "::{first.address}:"\nsilent\nshow-error\nmax-time = 30\n')
        self._bin = work / "bin"
        self._bin.mkdir()
        stackpad = self._bin / "stackpad"
        stackpad.write_text(f'#!/bin/sh\nexec {ROOT}/.venv/bin/python -m stackpad.cli "$@"\n')
        stackpad.chmod(0o755)

    def script(self, name: str, text: str) -> None:
        """A program that the guide's commands find."""
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def run(self, *, until: str | None = None) -> str:
        """Run all sections, or all before the one called ``until``; returns what was printed."""
        said = []
        while self._sections and self._sections[0].heading != until:
            said += [self._do(step) for step in self._sections.pop(0).steps]
        assert until is None or self._sections, f"there is no section {until}"
        return "".join(said)

    def _do(self, step: Step) -> str:
        if step.command.startswith(("cd ", "export ")):
            self._before[step.place].append(step.command)
            return ""
        said = self._type(step)

        def comes() -> bool:
            nonlocal said
            said = said if step.fits(said) else self._type(step)
            return step.fits(said)

        try:
            eventually(comes, step.command, 60 if step.only_reads else 0)
        except Failed as error:
            raise AssertionError(f"{step.command} printed\n{said}") from error
        return said

    def _type(self, step: Step) -> str:
        node = self._places[step.place]
        root, alone = node.root, len(self._places) == 1
        environment = {
            "CURL_HOME": str(self._work), "PATH": f"{self._bin}:{os.environ['PATH']}", "HOME": str(self._work),
            "PYTHONPATH": str(ROOT), "COLUMNS": "200",
        }  # fmt: skip
        if not alone:
            environment |= {
                "DOCKER_HOST": node.docker_host,
                "STACKPAD_SOCKET": f"{root}/run/stackpad/net.sock",
                "STACKPAD_INGRESS_SOCKET": f"{root}/run/stackpad/ingress/ingress.sock",
            }
        words = [*map(str, node.enter()), f"--wd={ROOT}"] if alone else []
        script = "\n".join(["set -e", *self._before[step.place], step.command])
        done = subprocess.run(
            [*words, "bash", "-c", script], env={**os.environ, **environment}, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        if not step.only_reads:
            assert step.printed or done.returncode == 0, (step, done.stdout, done.stderr)
        return done.stdout + (done.stderr if done.returncode else "")


@pytest.fixture(scope="module")
def stocked() -> set[str]:
    """The engines that have the images already."""
    return set()


def stock(node: Node, stocked: set[str], *, also: str = "") -> None:
    """Load the images of the examples, and of those every testbed has the one named ``also``."""
    if node.docker_host not in stocked:
        node.docker("load", "--quiet", "--input", images.public())
        stocked.add(node.docker_host)
    if also and not node.docker("images", "--quiet", also).strip():
        (archive,) = (path for path in images.build().archives if also.partition(":")[0].replace("/", "_") in path.name)
        node.docker("load", "--quiet", "--input", archive)


ENGINE = pytest.mark.parametrize("bed", ["debian12"], indirect=True)
"""One engine will do: what differs between them is tested elsewhere."""


@pytest.fixture
def node(bed: Testbed, stocked: set[str]) -> Iterator[Workbench]:
    """A node as the guides want it: with the images, and an ingress for their domain."""
    bench = Workbench(bed)
    stock(bench.node, stocked)
    bed.proxy.stop_ingress()
    bed.proxy.start_ingress(BASE_DOMAIN=BASE, PROOF_DNS=NAMES)
    yield bench
    bench.clear()
    eventually(lambda: routes(bench) == [], "an empty table")
    forget_domains(bench)
    bed.proxy.stop_ingress()
    bed.proxy.start_ingress()


@ENGINE
@pytest.mark.parametrize("name", ["one-node", "maintenance"])
def test_on_one_node(node: Workbench, tmp_path: Path, name: str) -> None:
    guide = Guide(name, {"": node.node}, tmp_path, ca=node.bed.proxy.ca)
    guide.run()
    assert not node.docker("ps", "--all", "--quiet").strip(), "the guide removes what it made"


@ENGINE
def test_a_domain_of_ones_own(node: Workbench, tmp_path: Path) -> None:
    guide = Guide("custom-domain", {"": node.node}, tmp_path, ca=node.bed.proxy.ca)
    shown = guide.run(until="Prove it")
    records = dict(re.findall(r"(_stackpad\.[a-z.]+[a-z])\.? TXT \"?(stackpad-verify=\w+)", shown))
    assert set(records) == {"_stackpad.shop.example", "_stackpad.www.shop.example"}, shown
    with name_server(node.node, records, tmp_path):
        guide.run(until="Give it up")
        guide.run()


@ENGINE
def test_blue_and_green_under_load(node: Workbench, tmp_path: Path) -> None:
    guide = Guide("blue-green", {"": node.node}, tmp_path, ca=node.bed.proxy.ca)
    guide.run(until="Green beside it")
    load = Load(f"https://shop.acme.{BASE}/", node.node.address)

    async def visited() -> None:
        async with load.going_on():
            await asyncio.to_thread(guide.run, until="Remove them")

    asyncio.run(visited())
    assert load.all_well(), (load.seen, load.failures)
    assert {body for _, body in load.seen} == {f"hello from version {version}\n" for version in (1, 2)}
    guide.run()


@ENGINE
@pytest.mark.parametrize("name", ["caddy-on-host", "caddy-in-container"])
def test_caddy(bed: Testbed, stocked: set[str], tmp_path: Path, name: str) -> None:
    bench = Workbench(bed)
    stock(bench.node, stocked, also=images.INGRESS)
    guide = Guide(name, {"": bench.node}, tmp_path, ca=None)
    guide.script("systemctl", SYSTEMCTL)
    bed.proxy.stop()
    places = [tmp_path / "caddy", tmp_path / "systemd"]
    try:
        for place, over in zip(places, ("/etc/caddy", "/etc/systemd/system"), strict=True):
            # The node has its root file system from the machine, whose own Caddy is left alone.
            place.mkdir()
            bench.exec("mount", "--bind", place, over)
        guide.run()
    finally:
        bench.exec(tmp_path / "bin/systemctl", "stop", check=False)
        bench.clear()
        for over in ("/etc/caddy", "/etc/systemd/system"):
            bench.exec("umount", over, check=False)
        bed.proxy.start()


def test_the_same_on_three_nodes(fleet: Testbed, stocked: set[str], tmp_path: Path) -> None:
    for one in fleet.nodes:
        stock(one, stocked)
    for proxy in (fleet.proxy, *fleet.agents):
        proxy.stop()
    fleet.proxy.start(BASE_DOMAIN=BASE)
    for agent in fleet.agents:
        agent.start_ingress(BASE_DOMAIN=BASE)
    try:
        places = dict(zip(("control", "worker1", "worker2"), fleet.nodes, strict=True))
        guide = Guide("three-nodes", places, tmp_path, ca=fleet.proxy.ca)
        guide.run()
    finally:
        for number in (1, 2, 3):
            Workbench(fleet, number).clear()
        for proxy in (fleet.proxy, *fleet.agents):
            proxy.stop()


@contextlib.contextmanager
def name_server(node: Node, records: dict[str, str], work: Path) -> Iterator[None]:
    """The one who serves the domain's names: it has the records the guide asks for."""
    words = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--pid-file=", "--local=/#/"]
    words += [f"--listen-address={NAMES}", *(f"--txt-record={name},{text}" for name, text in records.items())]
    enter = ["ip", "netns", "exec", node.spec.netns]
    pid = spawn([*enter, "dnsmasq", "--conf-file=/dev/null", *words], work / "names.log")
    try:
        yield
    finally:
        os.kill(pid, 15)
        wait_until("the end of the name server", lambda: not alive(pid))
