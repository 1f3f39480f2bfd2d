"""What somebody without rights on a node can do to our files and sockets: nothing; and in which mode each of them is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.workbench import Workbench, eventually
from tests.testbed.node import Node
from tools.install import USER

PLACES = ("run/stackpad", "var/lib/stackpad", "run/docker/plugins")
OPEN = {"run/stackpad", "run/stackpad/web", "run/stackpad/ingress", "run/stackpad/view"}
"""Who looks for a socket may see that it is there."""

FILES = {
    "var/lib/stackpad/net.db", "var/lib/stackpad/membership.json", "var/lib/stackpad/view.json",
    "var/lib/stackpad/keys/private.key", "var/lib/stackpad/guests.json", "run/stackpad/net.sock",
    "run/stackpad/web/web.sock",
    "run/docker/plugins/stackpad.sock", "run/stackpad/etcd/client:0",
}  # fmt: skip
"""Those that a node of a cluster has in any case: a census that missed them would say nothing."""

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
TRY = r"""
for place in "$@"; do
  if [ -d "$place" ]; then
    ls "$place" > /dev/null 2>&1 && echo "lists $place"
    (: > "$place/new") 2> /dev/null && echo "makes $place/new"
    mkdir "$place/directory" 2> /dev/null && echo "makes $place/directory"
    ln -s /etc/passwd "$place/.net.sock.1" 2> /dev/null && echo "links $place"
    ln -s /etc/passwd "$place/.membership.json.1-0.new" 2> /dev/null && echo "links $place"
    mv "$place" "$place.moved" 2> /dev/null && echo "moves $place"
    ln -s /tmp "$place/../stackpad-linked" 2> /dev/null && echo "links beside $place"
  else
    [ -r "$place" ] && echo "reads $place"
    [ -w "$place" ] && echo "writes $place"
    rm -f "$place" 2> /dev/null && [ ! -e "$place" ] && [ -x "$(dirname "$place")" ] && echo "removes $place"
    mv "$place" "$place.moved" 2> /dev/null && echo "moves $place"
    ln "$place" /tmp/stackpad-hard-link 2> /dev/null && echo "links $place"
  fi
done
exit 0
"""


GROUP = int(USER.partition(":")[2])
"""The ingress's."""


def ours(node: Node) -> list[str]:
    """All our files, sockets and directories on a node; the engine's own beside them as well."""
    found = []
    for place in PLACES:
        top = node.root / place
        found += [place, *(f"{place}/{path.relative_to(top)}" for path in sorted(top.rglob("*")))]
    return found


def loose(node: Node, paths: Iterable[str]) -> list[str]:
    """Those that are not root's, that others than root may write, or that others may read and reach.

    What an ingress in a container has made is of a group of its own, which has no rights in it either.
    """
    wrong = []
    for path in paths:
        there = (node.root / path).lstat()
        mode = stat.S_IMODE(there.st_mode)
        if stat.S_ISLNK(there.st_mode):
            wrong.append(f"{path} is a symbolic link")
        elif there.st_uid or there.st_gid not in {0, GROUP} or mode & 0o022 or (there.st_gid and mode & 0o070):
            wrong.append(f"{path} {mode:o} of {there.st_uid}:{there.st_gid}")
        elif mode & 0o055 and path not in OPEN and reachable(node, path):
            wrong.append(f"{path} {mode:o} is open to others")
    return wrong


def reachable(node: Node, path: str) -> bool:
    """Whether others than root may walk to it."""
    parents = [node.root / parent for parent in Path(path).parents if str(parent) != "."]
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in parents)


def as_nobody(node: Node, paths: Iterable[str]) -> list[str]:
    """What a user without rights gets done with these."""
    said = node.exec(*NOBODY, "sh", "-c", TRY, "sh", *(f"/{path}" for path in paths)).stdout
    return said.splitlines()


def check(node: Node, expected: Iterable[str]) -> None:
    """Nothing is loose, nothing can be done, and the census can tell."""
    paths = ours(node)
    assert set(expected) <= set(paths), set(expected) - set(paths)
    assert loose(node, paths) == []
    assert set(as_nobody(node, paths)) == {f"lists /{path}" for path in OPEN & set(paths)}
    planted = node.root / "run/stackpad/planted"
    planted.write_text("x")
    try:
        planted.chmod(0o666)
        assert loose(node, ["run/stackpad/planted"]) == ["run/stackpad/planted 666 of 0:0"]
        assert as_nobody(node, ["run/stackpad/planted"]) == [
            "reads /run/stackpad/planted",
            "writes /run/stackpad/planted",
        ]
        planted.chmod(0o644)
        assert loose(node, ["run/stackpad/planted"]) == ["run/stackpad/planted 644 is open to others"]
        os.chown(planted, 0, GROUP)
        assert loose(node, ["run/stackpad/planted"]) == [f"run/stackpad/planted 644 of 0:{GROUP}"]
        planted.chmod(0o600)
        assert loose(node, ["run/stackpad/planted"]) == []
    finally:
        planted.unlink()


def test_nobody_but_root_has_a_part_in_the_files_of_the_ingress(bench: Workbench) -> None:
    bench.network("shop-production")
    labels = ("--label", "stackpad.type=web", "--label", "stackpad.port=80")
    bench.serve("web", "shop-production", *labels)
    state = "var/lib/stackpad/ingress"
    expected = {f"{state}/claims.json", f"{state}/proof.key", "run/stackpad/ingress/ingress.sock"}
    eventually(lambda: expected <= set(ours(bench.node)), "the ingress's files to be there")
    check(bench.node, expected)


def test_a_directory_that_docker_made_is_closed(bench: Workbench) -> None:
    """``docker run --volume /var/lib/stackpad`` makes it for all to enter, where it is not there yet."""
    bench.exec("chmod", "755", "/var/lib/stackpad")
    bench.docker("plugin", "disable", "--force", "stackpad/net")
    bench.docker("plugin", "enable", "stackpad/net")
    bench.wait_plugin()
    assert stat.S_IMODE((bench.node.root / "var/lib/stackpad").stat().st_mode) == 0o700
