"""The files and sockets of the nodes of a cluster: see :mod:`tests.e2e.test_files`."""

from __future__ import annotations

from tests.e2e.life import Life
from tests.e2e.test_files import FILES, check, ours
from tests.e2e.workbench import eventually


def test_nobody_but_root_has_a_part_in_the_files_of_a_cluster(life: Life) -> None:
    for number, bench in life.bench.items():
        held = FILES if number == 1 else FILES - {"run/stackpad/etcd/client:0", "var/lib/stackpad/guests.json"}
        bench.network("shop")
        bench.serve("web", "shop", "--publish", "8077:80")
        life.token() if number == 1 else None
        eventually(lambda held=held, bench=bench: held <= set(ours(bench.node)), "the files to be there")
        check(bench.node, held)
