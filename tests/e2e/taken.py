"""What somebody finds who has taken the ingress over: programs that run in its container, with its rights."""

from __future__ import annotations

import contextlib
import json
import stat

from tests.e2e.workbench import Workbench
from tools.install import CONTAINER

LOOK = """
import json, os, stat
sockets, files = [], {}
for place, directories, names in os.walk("/"):
    directories[:] = [name for name in directories if os.path.join(place, name) not in ("/proc", "/sys")]
    for name in names:
        path = os.path.join(place, name)
        try:
            there = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISSOCK(there.st_mode):
            sockets.append(path)
        files[f"{there.st_dev}:{there.st_ino}"] = path
print(json.dumps([sorted(sockets), files]))
"""
"""Every socket that has a name in a container, and every file, by what it is: a mount has another path."""


def held_by(bench: Workbench) -> dict[str, str]:
    """The same of what plugin and ingress keep on the node; from outside of it, since not every node has a Python."""
    top = bench.node.root / "var/lib/stackpad"
    found = {}
    for path in top.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the store makes files and removes them
            there = path.lstat()
            if not stat.S_ISDIR(there.st_mode):
                found[f"{there.st_dev}:{there.st_ino}"] = f"/{path.relative_to(bench.node.root)}"
    return found


ASK = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
body = sys.argv[3] if len(sys.argv) > 3 else ""
head = f"{sys.argv[2]} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
s.sendall((head + body).encode())
print(s.makefile().read())
"""
"""What is answered at a socket."""

REMOVE = """
import os, sys
try:
    os.unlink(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""

PLUGINS = "/run/stackpad/web/web.sock"
SHOWN = "/run/stackpad/view/engine.sock"
SOCKETS = {
    PLUGINS, SHOWN, "/run/stackpad/ingress/ingress.sock", "/run/stackpad/ingress/page.sock", "/run/caddy/admin.sock",
}  # fmt: skip

SECRETS = {"net.db", "membership.json", "keys/private.key", "etcd/data/member/snap/db"}
"""Of the plugin's files those that would be missed first: its state, the cluster's secret, the node's key, the store."""

COMMANDS = ("init", "join", "leave", "rm", "rotate-key", "token", "token/rm")


def inside(bench: Workbench, script: str, *words: str) -> str:
    """What a program says in the ingress's container, with the ingress's rights."""
    return bench.docker("exec", CONTAINER, "/opt/stackpad/bin/python", "-c", script, *words)


def ask(bench: Workbench, socket: str, request: str, body: str = "") -> tuple[int, str]:
    """Status and answer of a socket, as that program is told."""
    head, _, rest = inside(bench, ASK, socket, request, body).partition("\n\n")
    return int(head.split()[1]), rest


def sees_no_other_socket(bench: Workbench) -> None:
    """Five, each alone in its directory; those of others cannot be taken away either."""
    sockets, _ = json.loads(inside(bench, LOOK))
    assert set(sockets) == SOCKETS
    for theirs in (PLUGINS, SHOWN):
        assert inside(bench, REMOVE, theirs).strip() == "Read-only file system", theirs


def sees_nothing_of_the_plugins(bench: Workbench) -> None:
    """The plugin's files are not in its container, by no path: the ingress's own, beside them on the node, are."""
    _, files = json.loads(inside(bench, LOOK))
    held = held_by(bench)
    own = {what for what, path in held.items() if path.startswith("/var/lib/stackpad/ingress/")}
    assert {held[what] for what in held.keys() - own} >= {f"/var/lib/stackpad/{name}" for name in SECRETS}
    assert {files.get(what) for what in own} >= {"/var/lib/stackpad/ingress/claims.json"}
    assert held.keys() & files.keys() <= own, {path for what, path in held.items() if what in files.keys() - own}


def commands_nothing(bench: Workbench, network: str) -> None:
    """The plugin lets it neither join nor leave, and gives it no token; what the ingress itself asks is answered."""
    for command in COMMANDS:
        for method in ("POST", "GET"):
            assert ask(bench, PLUGINS, f"{method} /node/{command}", "{}")[0] == 404, command
    for path in ("/cluster", "/status", "/ports", "/metrics"):
        assert ask(bench, PLUGINS, f"GET {path}")[0] == 404, path
    status, networks = ask(bench, PLUGINS, "GET /networks")
    assert (status, network in networks) == (200, True)


def changes_nothing_on_the_engine(bench: Workbench) -> None:
    """The engine it has by the view alone, which tells of the container ``web`` and keeps its password."""
    status, refused = ask(bench, SHOWN, "POST /containers/create")
    assert (status, "POST /containers/create is not passed on to the engine" in refused) == (403, True)
    assert ask(bench, SHOWN, "GET /containers/web/archive?path=/etc")[0] == 403
    _, shown = ask(bench, SHOWN, "GET /containers/web/json")
    assert "stackpad.type" in shown
    assert "hunter2" in bench.docker("inspect", "web")
    assert "hunter2" not in shown
