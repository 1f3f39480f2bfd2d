"""`make install` and `make uninstall` on an engine that is there already, with the ingress as a container."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from tests import rights
from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor
from tests.e2e.workbench import Workbench, eventually
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import ROOT
from tests.testbed.testbed import Testbed
from tools.install import CONTAINER, VIEW

LOOK = """
import json, os, socket, stat
found = []
for place, directories, names in os.walk("/"):
    directories[:] = [name for name in directories if os.path.join(place, name) not in ("/proc", "/sys")]
    for name in names:
        path = os.path.join(place, name)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
        except OSError:
            pass
print(json.dumps(sorted(found)))
"""
"""Every socket that has a name in a container."""

ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/stackpad/engine.sock")
s.sendall(f"{sys.argv[1]} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
print(s.makefile().read())
"""
"""What the view answers."""


def inside(bench: Workbench, script: str, *words: str) -> str:
    """What a program says in the ingress's container, with the ingress's rights."""
    return bench.docker("exec", CONTAINER, "/opt/stackpad/bin/python", "-c", script, *words)


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
        for _ in range(2):
            done = install(bench, "install", BASE_DOMAIN="stackpad.test", ORG="acme", TLS="internal")
            assert done.returncode == 0, done.stderr
        for container, expected in ((CONTAINER, rights.INGRESS), (VIEW, rights.VIEW)):
            pid = bench.docker("inspect", "--format", "{{.State.Pid}}", container)
            assert rights.of(int(pid)) == {expected}, container
        bench.network(NETWORK)
        bench.serve("web", NETWORK, *WEB, "--env", "PASSWORD=hunter2", "--restart", "always")
        visitor = Visitor(bench)
        visitor.sees(HOST, 200, "web ")
        the_engine_is_out_of_its_reach(bench)
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


def the_engine_is_out_of_its_reach(bench: Workbench) -> None:
    """Who has taken the ingress over finds no socket of the engine's but the view, and changes nothing by that."""
    known = {"net.sock", "ingress.sock", "page.sock", "engine.sock", "admin.sock"}
    found = json.loads(inside(bench, LOOK))
    assert {path.rpartition("/")[2] for path in found} == known, found
    assert all(path.startswith(("/run/stackpad/", "/run/caddy/")) for path in found), found
    refused = inside(bench, ASK, "POST /containers/create")
    assert " 403 " in refused.partition("\n")[0]
    assert "POST /containers/create is not passed on to the engine" in refused
    assert " 403 " in inside(bench, ASK, "GET /containers/web/archive?path=/etc").partition("\n")[0]
    shown = inside(bench, ASK, "GET /containers/web/json")
    assert "stackpad.type" in shown
    assert "hunter2" in bench.docker("inspect", "web")
    assert "hunter2" not in shown


def caddys_directory_may_be_made_anew(visitor: Visitor) -> None:
    """As systemd does where its unit does not say that it is to stay: the ingress's mount is then of the old one."""
    bench, proxy = visitor.bench, visitor.bench.bed.proxy
    proxy.stop_caddy()
    shutil.rmtree(bench.node.root / "run/caddy")
    proxy.start_caddy()
    visitor.sees(HOST, 200, "next ")
    assert int(bench.docker("inspect", "--format", "{{.RestartCount}}", CONTAINER)) > 0
    assert "was removed outside of this container" in bench.try_docker("logs", CONTAINER).stderr
