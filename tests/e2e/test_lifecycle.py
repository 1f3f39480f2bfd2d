"""What survives what: the plugin killed, replaced or restarted, the engine restarted or killed, the host rebooted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.workbench import BRIEF, Target, Workbench, eventually, everything, hold
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import wait_until


class Scene:
    """Two containers of one environment, one published, with a restart policy; and a stranger."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        for name in ("shop", "other"):
            bench.network(name, "--ipam-driver", "stackpad", "--ipv6")
        always = ("--restart", "always")
        bench.serve("server", "shop", "--publish", "8080:80", *always)
        bench.start("client", "shop", *always)
        bench.serve("stranger", "other", *always)

    def check(self) -> None:
        """Everything is as it should be, whatever has happened."""
        bench = self.bench
        bench.wait_plugin()
        for name in ("server", "stranger"):
            bench.wait_listening(name)
        server, stranger = (bench.node.address_of(n, w) for n, w in (("server", "shop"), ("stranger", "other")))
        assert bench.reaches("client", *everything(server))
        assert bench.cut_off("client", *everything(stranger))
        resolved = bench.docker("exec", "client", "python3", "-c", "import socket; print(socket.gethostbyname('server'))")
        assert resolved.strip() == server
        eventually(lambda: bench.ask_from_outside(Target("tcp", bench.node.address, 8080))[0].startswith("server "))
        eventually(lambda: [row["container"] for row in bench.ports()] == ["server"], "the published port in the list")
        assert bench.reaches("client", Target("icmp", "198.51.100.1"))
        assert bench.cut_off("client", Target("icmp", "169.254.169.254"))
        bench.start("newcomer", "shop")
        assert bench.reaches("newcomer", *everything(server))
        bench.docker("rm", "--force", "newcomer")


@pytest.fixture
def scene(bench: Workbench) -> Scene:
    """The scene, made anew for each test."""
    return Scene(bench)


@contextmanager
def pings(scene: Scene) -> Iterator[list[int]]:
    """Pings from client to server every 50 ms while something happens; yields what will hold the numbers of lost ones."""
    address = scene.bench.node.address_of("server", "shop")
    process = subprocess.Popen(
        ["docker", "-H", scene.bench.node.docker_host, "exec", "client", "ping", "-i", "0.05", "-w", "240", address],
        stdout=subprocess.PIPE,
        text=True,
    )
    hold(0.5)
    lost: list[int] = []
    try:
        yield lost
        scene.bench.docker("exec", "client", "pkill", "-INT", "ping", check=False)
        scene.bench.docker("exec", "client", "sh", "-c", "kill -INT $(busybox pidof ping)", check=False)
    finally:
        output, _ = process.communicate(timeout=60)
        # The last one may have been under way when it ended.
        came = {int(number) for number in re.findall(r"seq=(\d+)", output)}
        lost += sorted(set(range(min(came), max(came))) - came) if came else [0]


@pytest.mark.parametrize("whole", [False, True], ids=["its process", "all of it"])
def test_plugin_killed(scene: Scene, whole: bool) -> None:
    before = scene.bench.links()
    pid, first = scene.bench.node.plugin_pid(), scene.bench.node.plugin_init()
    with pings(scene) as lost:
        os.kill(first if whole else pid, signal.SIGKILL)
        wait_until("another plugin process", lambda: _other_plugin(scene.bench, pid))
        scene.bench.wait_plugin()
    assert lost == []
    assert (scene.bench.node.plugin_init() == first) is not whole, "the engine has to start what has ended"
    assert scene.bench.links() == before, "the links are taken over, not made anew"
    scene.check()


def test_plugin_disabled_and_enabled(scene: Scene) -> None:
    with pings(scene) as lost:
        scene.bench.docker("plugin", "disable", "--force", PLUGIN)
        assert not (scene.bench.node.root / "run/docker/plugins/stackpad.sock").exists(), "a stale socket stays behind"
        scene.bench.docker("plugin", "enable", PLUGIN)
        scene.bench.wait_plugin()
    assert lost == []
    scene.check()


def test_plugin_replaced(scene: Scene) -> None:
    """The way to a new version of a plugin that no registry has: remove and create under the same name."""
    with pings(scene) as lost:
        scene.bench.docker("plugin", "disable", "--force", PLUGIN)
        scene.bench.docker("plugin", "rm", "--force", PLUGIN)
        scene.bench.node.install_plugin(images.build(only_plugin=True).plugin)
        scene.bench.wait_plugin()
    assert lost == []
    scene.check()


def test_a_state_that_cannot_be_used_is_told_and_waited_for(bench: Workbench) -> None:
    bench.network("shop")
    address = bench.serve("server", "shop")
    bench.start("client", "shop")
    state = bench.node.root / "var/lib/stackpad/net.db"
    whole = state.with_name("whole.db")
    bench.docker("plugin", "disable", "--force", PLUGIN)
    shutil.copy2(state, whole)
    try:
        os.truncate(state, state.stat().st_size // 2)
        bench.docker("plugin", "enable", PLUGIN)
        pid = bench.node.plugin_pid()
        refused = bench.try_docker("network", "create", "--driver", "stackpad", "late")
        assert refused.returncode != 0
        assert (
            "net.db cannot be used: database disk image is malformed; make it root's, repair the disk or put a copy"
            in refused.stderr
        )
        status = bench.node.stackpad("status", check=False)
        assert (status.returncode, "net.db cannot be used" in status.stderr) == (3, True)
        assert bench.reaches("client", *everything(address)), "what is there goes on"
    finally:
        whole.rename(state)
    eventually(lambda: bench.try_docker("network", "create", "--driver", "stackpad", "late").returncode == 0)
    assert bench.node.plugin_pid() == pid
    bench.wait_plugin()
    bench.start("newcomer", "shop")
    assert bench.reaches("newcomer", *everything(address))


@pytest.mark.replay("S8")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_engine_restarted(scene: Scene, how: signal.Signals) -> None:
    scene.bench.node.restart_engine(how=how)
    scene.check()
    scene.bench.network("after-restart")
    scene.bench.start("fresh", "after-restart")


@pytest.mark.replay("S13")
def test_engine_restarted_with_live_restore(scene: Scene) -> None:
    scene.bench.node.restart_engine("--live-restore")
    scene.check()
    started = scene.bench.docker("inspect", "--format", "{{.State.StartedAt}}", "server")
    # The first start ended the containers: the ends they have given back are cleared away some time after it.
    eventually(lambda: not [name for name in scene.bench.links() if name.startswith("spc")], "old ends to be gone")
    with_live = scene.bench.links()
    scene.bench.node.restart_engine("--live-restore")
    try:
        assert scene.bench.docker("inspect", "--format", "{{.State.StartedAt}}", "server") == started
        assert scene.bench.links() == with_live
        scene.check()
    finally:
        scene.bench.node.restart_engine()
    scene.check()


def test_host_rebooted(scene: Scene) -> None:
    scene.bench.node.reboot()
    scene.bench.bed.proxy.start()
    scene.check()


def test_containers_removed_while_the_plugin_is_away_block_nothing(scene: Scene) -> None:
    """Docker removes them without being able to tell us, and gives their addresses and ports to others."""
    bench = scene.bench
    bench.network("plain")
    bench.serve("web", "plain", "--publish", "8099:80")
    bench.docker("plugin", "disable", "--force", PLUGIN)
    bench.docker("rm", "--force", "web")
    bench.docker("plugin", "enable", PLUGIN)
    bench.wait_plugin()
    bench.serve("successor", "plain", "--publish", "8099:80")
    assert bench.ask_from_outside(Target("tcp", bench.node.address, 8099))[0].startswith("successor ")
    eventually(
        lambda: sum(len(list(row["endpoints"])) for row in bench.admin("/networks")) == 4, "no leaked endpoint", 60
    )


def test_firewall_flushed_by_somebody_else(scene: Scene) -> None:
    bench = scene.bench
    stranger = bench.node.address_of("stranger", "other")
    for command in (["nft", "flush", "ruleset"], ["iptables", "-F"], ["nft", "delete", "table", "bridge", "stackpad"]):
        bench.exec(*command, check=False)
        for table in (["inet", "stackpad"], ["bridge", "stackpad"]):
            eventually(lambda t=table: _there(bench, *t), f"{table} after {command}")
        assert bench.cut_off("client", *everything(stranger)), command
    # Docker's own rules come back with the engine only.
    bench.node.restart_engine()
    scene.check()
    bench.exec("iptables", "-F", "DOCKER-USER")
    eventually(lambda: "stackpad" in bench.exec("iptables", "-S", "DOCKER-USER").stdout, "our accepts")
    scene.check()


def test_an_operators_rule_in_docker_user_goes_on_holding(scene: Scene) -> None:
    bench = scene.bench
    bench.exec("iptables", "-I", "DOCKER-USER", "-i", "eth0", "-p", "tcp", "--dport", "80", "-j", "DROP")
    try:
        hold(1.0)
        assert not any(bench.ask_from_outside(Target("tcp", bench.node.address, 8080), patience=BRIEF))
    finally:
        bench.exec("iptables", "-D", "DOCKER-USER", "-i", "eth0", "-p", "tcp", "--dport", "80", "-j", "DROP")
    scene.check()


def test_a_bridge_deleted_by_somebody_else_comes_back(scene: Scene) -> None:
    bench = scene.bench
    (bridge,) = [str(row["bridge"]) for row in bench.admin("/networks") if row["name"] == "shop"]
    bench.exec("ip", "link", "del", bridge)
    wait_until("the bridge", lambda: bridge in bench.links())
    scene.check()


def test_from_a_registry(bench: Workbench, tmp_path: Path) -> None:
    """Push to Debian's docker-registry and install from it under the name the documentation gives."""
    config = tmp_path / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}, delete: {{enabled: true}}}}\n"
        "http: {addr: '127.0.0.1:5055'}\n"
    )
    words = ["ip", "netns", "exec", bench.node.spec.netns, "docker-registry", "serve", str(config)]
    registry = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reference = "127.0.0.1:5055/stackpad/net:1"
    built = images.build(only_plugin=True).plugin
    try:
        wait_until("the registry", lambda: "200" in _status(bench))
        # An old engine does not take the same content twice.
        bench.docker("plugin", "disable", "--force", PLUGIN)
        bench.docker("plugin", "rm", "--force", PLUGIN)
        bench.docker("plugin", "create", reference, built)
        bench.docker("plugin", "push", reference)
        bench.docker("plugin", "rm", reference)
        install = ["plugin", "install", "--grant-all-permissions", "--alias", PLUGIN, reference, "LOG_LEVEL=debug"]
        bench.docker(*install)
        bench.network("from-registry")
        address = bench.serve("server", "from-registry")
        bench.start("client", "from-registry")
        bench.docker("plugin", "disable", "--force", PLUGIN)
        bench.docker("plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", PLUGIN, reference)
        bench.docker("plugin", "enable", PLUGIN)
        bench.wait_plugin()
        assert bench.reaches("client", *everything(address))
    finally:
        registry.terminate()
        registry.wait(60)
        bench.docker("plugin", "disable", "--force", PLUGIN, check=False)
        bench.docker("plugin", "rm", "--force", PLUGIN, check=False)
        bench.node.install_plugin(built)


def _there(bench: Workbench, *table: str) -> bool:
    return bench.exec("nft", "list", "table", *table, check=False).returncode == 0


def _other_plugin(bench: Workbench, before: int) -> bool:
    try:
        return bench.node.plugin_pid() != before
    except Exception:
        return False


def _status(bench: Workbench) -> str:
    enter = ["ip", "netns", "exec", bench.node.spec.netns]
    ask = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:5055/v2/"]
    return subprocess.run([*enter, *ask], capture_output=True, text=True, check=False).stdout
