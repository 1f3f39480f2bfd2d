"""The files and sockets of the nodes of a cluster: see :mod:`tests.e2e.test_files`."""

from __future__ import annotations

import pytest

from tests.e2e.life import Life
from tests.e2e.test_files import FILES, check, ours
from tests.e2e.workbench import eventually
from tests.testbed.shell import run
from tools.install import USER

ASK = ("curl", "--silent", "--max-time", "5", "http://10.192.0.1:2379/version")
REFUSED = 7
"""curl's exit status where a connection is."""


@pytest.mark.parametrize(
    ("user", "group"), [(65534, 65534), (65534, 0), (0, int(USER.partition(":")[2]))], ids=["nobody", "root's", "ingress"]
)
def test_the_embedded_store_is_open_to_root_alone(life: Life, user: int, group: int) -> None:
    """It asks nobody who he is; who may not read the cluster's files is not to write its records either."""
    somebody = ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs")
    for number, bench in life.bench.items():
        # With this machine's programs: not every engine's image has curl.
        there = ("ip", "netns", "exec", bench.node.spec.netns)
        eventually(lambda there=there: run(*there, *ASK, check=False).returncode == 0, f"root to be answered on {number}")
        assert run(*there, *somebody, *ASK, check=False).returncode == REFUSED


def test_nobody_but_root_has_a_part_in_the_files_of_a_cluster(life: Life) -> None:
    for number, bench in life.bench.items():
        held = FILES if number == 1 else FILES - {"run/stackpad/etcd/client:0", "var/lib/stackpad/guests.json"}
        bench.network("shop")
        bench.serve("web", "shop", "--publish", "8077:80")
        life.token() if number == 1 else None
        eventually(lambda held=held, bench=bench: held <= set(ours(bench.node)), "the files to be there")
        check(bench.node, held)
