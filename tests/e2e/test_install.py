"""`make install` and `make uninstall` on an engine that is there already, with the ingress as a container."""

from __future__ import annotations

import subprocess
import sys

from tests import rights
from tests.e2e.visitor import HOST, NETWORK, WEB, Visitor
from tests.e2e.workbench import Workbench, eventually
from tests.rights import INGRESS
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import ROOT
from tests.testbed.testbed import Testbed


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
        ingress = bench.docker("inspect", "--format", "{{.State.Pid}}", "stackpad-ingress")
        assert rights.of(int(ingress)) == {INGRESS}
        bench.network(NETWORK)
        bench.serve("web", NETWORK, *WEB)
        Visitor(bench).sees(HOST, 200, "web ")
        refused = install(bench, "uninstall")
        assert refused.returncode != 0
        assert "networks still use the plugin" in refused.stderr
        bench.docker("rm", "--force", "web")
        bench.docker("network", "rm", NETWORK)
        done = install(bench, "uninstall")
        assert done.returncode == 0, done.stderr
        assert not bench.docker("plugin", "ls", "--quiet").strip()
        assert not (bench.node.root / "run/docker/plugins/stackpad.sock").exists()
        tables = bench.exec("nft", "list", "tables").stdout
        assert "stackpad" not in tables
        assert "stackpad" not in bench.exec("iptables", "-S").stdout
        eventually(lambda: not bench.links(), "our links to go")
    finally:
        bench.docker("rm", "--force", "stackpad-ingress", check=False)
        if not bench.docker("plugin", "ls", "--quiet").strip():
            bench.node.install_plugin(images.build(only_plugin=True).plugin, PLUGIN)
        bed.proxy.start_ingress()
        bench.clear()
