"""`make install` and `make uninstall` on an engine that is there already, with the ingress as a container."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests import rights
from tests.e2e import taken
from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor
from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import ROOT
from tests.testbed.testbed import Testbed
from tools.install import CONFINED, CONTAINER, VIEW


def install(bench: Workbench, what: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **settings}
    return subprocess.run(
        [sys.executable, "-m", "tools.install", what],
        env={**environment, "DOCKER_HOST": bench.node.docker_host},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_install_twice_serve_and_uninstall(bed: Testbed) -> None:
    bench = Workbench(bed)
    bed.proxy.stop_ingress()
    try:
        made(bench)
        bench.network(NETWORK)
        bench.serve("web", NETWORK, *WEB)
        visitor = Visitor(bench)
        visitor.sees(HOST, 200, "web ")
        before = as_before(bench, visitor)
        bench.node.stackpad("node", "init", "--yes", "--no-daemon-json")
        made(bench)
        carried_over(bench, before)
        for container, expected in ((CONTAINER, rights.INGRESS), (VIEW, rights.VIEW)):
            pid = bench.docker("inspect", "--format", "{{.State.Pid}}", container)
            assert rights.of(int(pid)) == {expected}, container
        visitor.sees(HOST, 200, "web ")
        taken.sees_no_other_socket(bench)
        taken.sees_nothing_of_the_plugins(bench)
        taken.commands_nothing(bench, NETWORK)
        taken.changes_nothing_on_the_engine(bench)
        # The engine's socket is made anew, and Docker starts all three again, in any order.
        bench.node.restart_engine("--live-restore")
        visitor.sees(HOST, 200, "web ")
        # And once more, while all three go on.
        began = bench.docker("inspect", "--format", "{{.State.StartedAt}}", VIEW, CONTAINER, "web")
        bench.node.restart_engine("--live-restore")
        assert bench.docker("inspect", "--format", "{{.State.StartedAt}}", VIEW, CONTAINER, "web") == began
        bench.docker("rm", "--force", "web")
        bench.serve("next", NETWORK, *WEB)
        visitor.sees(HOST, 200, "next ")
        caddys_directory_may_be_made_anew(visitor)
        refused = install(bench, "uninstall")
        assert refused.returncode != 0
        assert "networks still use the plugin" in refused.stderr
        bench.docker("rm", "--force", "next")
        bench.docker("network", "rm", NETWORK)
        bench.node.stackpad("node", "leave", "--yes", configures=True)
        done = install(bench, "uninstall")
        assert done.returncode == 0, done.stderr
        assert not bench.docker("plugin", "ls", "--quiet").strip()
        assert not bench.docker("ps", "--all", "--quiet").strip()
        assert not (bench.node.root / "run/docker/plugins/stackpad.sock").exists()
        tables = bench.exec("nft", "list", "tables").stdout
        assert "stackpad" not in tables
        assert "stackpad" not in bench.exec("iptables", "-S").stdout
        eventually(lambda: not bench.links(), "our links to go")
    finally:
        bench.docker("rm", "--force", CONTAINER, VIEW, check=False)
        bench.node.restart_engine()
        if not bench.docker("plugin", "ls", "--quiet").strip():
            bench.node.install_plugin(images.build(only_plugin=True).plugin, PLUGIN)
        bed.proxy.start_ingress()
        bench.clear()


def made(bench: Workbench) -> None:
    """Install, or upgrade."""
    done = install(bench, "install", BASE_DOMAIN="stackpad.test", ORG="acme", TLS="internal")
    assert done.returncode == 0, done.stderr


def as_before(bench: Workbench, visitor: Visitor) -> dict[str, bytes]:
    """The ingress as it was installed earlier, with the plugin's directories; returns what it keeps of who owns what."""
    state = bench.node.root / "var/lib/stackpad"
    bench.docker("rm", "--force", CONTAINER)
    shutil.rmtree(state / "ingress")
    settings = {
        "BASE_DOMAIN": "stackpad.test", "ORG": "acme", "TLS": "internal", "DOCKER_HOST": f"unix://{taken.SHOWN}",
        "ADMIN_SOCKET": "/run/stackpad/ingress.sock", "NET_SOCKET": "/run/stackpad/net.sock",
        "STATE_DIR": "/var/lib/stackpad",
    }  # fmt: skip
    mounts = [f"--volume={path}:{path}" for path in ("/run/stackpad", "/run/caddy", "/var/lib/stackpad")]
    words = [*CONFINED, *mounts, *(f"--env={name}={value}" for name, value in settings.items())]
    bench.docker("run", "--detach", "--name", CONTAINER, *words, images.INGRESS)
    eventually(lambda: HOST.encode() in content(state / "claims.json"), "the earlier ingress's claims")
    bench.docker("rm", "--force", "web")
    bench.serve("web", NETWORK, *WEB, "--env", "PASSWORD=hunter2", "--restart", "always")
    visitor.sees(HOST, 200, "web ")
    bench.docker("stop", CONTAINER)
    return {name: (state / name).read_bytes() for name in ("claims.json", "proof.key")}


def carried_over(bench: Workbench, before: dict[str, bytes]) -> None:
    """The state has moved, and says the same."""
    state = bench.node.root / "var/lib/stackpad"
    assert not {path.name for path in state.iterdir()} & before.keys()
    assert (state / "ingress/proof.key").read_bytes() == before["proof.key"]
    then, now = (
        json.loads(text)["claims"][HOST] for text in (before["claims.json"], content(state / "ingress/claims.json"))
    )
    assert (now["since"], now["owner"]) == (then["since"], then["owner"])


def content(file: Path) -> bytes:
    """What is in a file, nothing where there is none."""
    return file.read_bytes() if file.exists() else b""


def caddys_directory_may_be_made_anew(visitor: Visitor) -> None:
    """As systemd does where its unit does not say that it is to stay: the ingress's mount is then of the old one."""
    bench, proxy = visitor.bench, visitor.bench.bed.proxy
    proxy.stop_caddy()
    shutil.rmtree(bench.node.root / "run/caddy")
    proxy.start_caddy()
    visitor.sees(HOST, 200, "next ")
    assert int(bench.docker("inspect", "--format", "{{.RestartCount}}", CONTAINER)) > 0
    assert "was removed outside of this container" in bench.try_docker("logs", CONTAINER).stderr
