"""``stackpad node``: begin a cluster, join one, see and remove its nodes."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stackpad import roles as etcdroles
from stackpad.cli import client, daemonjson, dockerconfig, fleet, output
from stackpad.cli.common import PLACES, PROBLEM, USAGE, Json, Socket, answering, show
from stackpad.cli.dockerconfig import Outcome
from stackpad.cli.render import duration
from stackpad.cli.reports import ClusterReport
from stackpad.errors import StackpadError
from stackpad.nodes import identify

SLOW = 60.0
"""Seconds to wait for what another node has to answer."""

app = typer.Typer(
    help="Nodes of a cluster: begin one, join one, list and remove nodes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="This node's name; the machine's by default.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DaemonJson = Annotated[
    Path, typer.Option("--daemon-json", metavar="PATH", help="Docker's configuration, to which ranges and DNS are added.")
]
LeftJson = Annotated[
    Path, typer.Option("--daemon-json", metavar="PATH", help="Docker's configuration; ours is taken out of it.")
]
NoDaemonJson = Annotated[bool, typer.Option("--no-daemon-json", help="Leave Docker's configuration alone.")]
Dns = Annotated[
    str, typer.Option("--dns", metavar="ADDRESSES", help="Name servers after ours; those of this machine by default.")
]
Engine = Annotated[Path, typer.Option("--docker-socket", metavar="PATH", help="The engine's socket.")]

STDIN = "-"
"""As a token: read it from there, so that it is in no list of processes."""

LEFT = "its ranges and resolver are another node's soon, or nobody's: take out by hand what is shown above"

DAEMON_JSON = PLACES.daemon_json


@app.command(epilog="Example: stackpad node init --name control")
def init(
    name: Name = "",
    socket: Socket = PLACES.plugin,
    daemon_json: DaemonJson = DAEMON_JSON,
    no_daemon_json: NoDaemonJson = False,
    docker_socket: Engine = PLACES.engine,
    dns: Dns = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Begin a cluster. This node holds its store, and others join through it."""
    with answering():
        client.ask(client.plugin(socket), "/node/init", {"name": name}, timeout=SLOW)
        report = _cluster(socket)
    output.say(f"{report.name} is the first node of cluster {report.id}")
    docker = None if no_daemon_json else _configure_docker(report, daemon_json, docker_socket, dns=dns, yes=yes)
    output.say("others join with what this prints: stackpad node token")
    _done(_place(report, docker), as_json=as_json)


@app.command(epilog="Example: stackpad node join stackpad-1-… --name worker-1")
def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="From stackpad node token; - reads it from stdin.")],
    name: Name = "",
    socket: Socket = PLACES.plugin,
    daemon_json: DaemonJson = DAEMON_JSON,
    no_daemon_json: NoDaemonJson = False,
    docker_socket: Engine = PLACES.engine,
    dns: Dns = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Join a cluster with a token that one of its nodes has printed."""
    text = sys.stdin.read() if token == STDIN else token
    with answering():
        _told(socket, "/node/join", {"token": text, "name": name})
        report = _cluster(socket)
    output.say(f"{report.name} is in cluster {report.id}")
    docker = None if no_daemon_json else _configure_docker(report, daemon_json, docker_socket, dns=dns, yes=yes)
    _done(_place(report, docker), as_json=as_json)


@app.command(epilog="Example: stackpad node configure --dns 192.0.2.53")
def configure(
    socket: Socket = PLACES.plugin,
    daemon_json: DaemonJson = DAEMON_JSON,
    docker_socket: Engine = PLACES.engine,
    dns: Dns = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Write this node's ranges and resolver into daemon.json. Does what init and join offer."""
    with answering():
        report = _cluster(socket)
    docker = _configure_docker(report, daemon_json, docker_socket, dns=dns, yes=yes)
    _done(asdict(docker), as_json=as_json)
    if not docker.right:
        raise typer.Exit(USAGE if docker.unattended else PROBLEM)


@app.command(epilog="Example: stackpad node token --lifetime 10m")
def token(
    lifetime: Annotated[
        str, typer.Option("--lifetime", metavar="TIME", help="How long it is good, as 90s, 10m, 2h, 1d.")
    ] = "1h",
    listed: Annotated[bool, typer.Option("--list", help="List the tokens that are still good instead.")] = False,
    revoke: Annotated[str, typer.Option("--revoke", metavar="ID", help="Take one back instead.")] = "",
    socket: Socket = PLACES.plugin,
    as_json: Json = False,
) -> None:
    """Print a token: leave to join for one node, once. It joins through this node."""
    server = client.plugin(socket)
    with answering():
        if revoke:
            client.ask(server, "/node/token/rm", {"id": revoke})
            output.say(f"token {revoke} is taken back")
        elif listed:
            tokens = client.fetch(server, "/node/token", tuple[dict[str, Any], ...])
            show(tokens, fleet.tokens(tokens, time.time()), as_json=as_json)
        else:
            given = client.ask(server, "/node/token", {"lifetime": _seconds(lifetime)}, timeout=SLOW)
            if as_json:
                output.show_json(given)
            else:
                typer.echo(given["token"])
                until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(given["expires"]))
                output.say(
                    f"it is good for one node, for {duration(given['expires'] - time.time() + 0.5)}, until {until} UTC"
                )
                output.say("on the other node: stackpad node join TOKEN, or docker plugin install … JOIN=TOKEN")


@app.command("ls", epilog="Example: stackpad node ls")
def list_nodes(socket: Socket = PLACES.plugin, as_json: Json = False) -> None:
    """List the nodes, their blocks and how this node reaches them.

    Ends with 0 also while nodes are gone: that is what a list is to show. stackpad status ends with 1 then.
    """
    with answering():
        report = _cluster(socket, "/cluster?round-trip")
    show(report, fleet.nodes(report), as_json=as_json, troubled=bool(report.problems))


@app.command(epilog="Example: stackpad node rm worker-1")
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node's name or id.")],
    socket: Socket = PLACES.plugin,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove a node, also one that is gone for good. All it held is free then."""
    with answering():
        report = _cluster(socket)
        nodes = {node.id: node for node in report.nodes}
        found = nodes[identify(name, {node.id: node.name for node in report.nodes})]
        if found.alive and not yes:
            _confirm(
                f"{found.name} is alive, with {found.networks} networks; its containers lose the other nodes. Remove it?"
            )
        ended = client.ask(client.plugin(socket), "/node/rm", {"name": found.id}, timeout=SLOW)
    freed = bool(ended.get("freed", True))
    output.say(f"{name} is removed; its ranges are free again in ten minutes" if freed else _not_freed(name))
    ours = " and ".join(daemonjson.RESOLVERS)
    output.say(
        f"on {name}, if it is to go on: take {ours} out of dns in Docker's daemon.json, pools in {report.range4} and "
        f"{report.range6} out of default-address-pools, and restart Docker before the next reboot"
    )
    _done({"removed": name, "freed": freed}, as_json=as_json)


@app.command(epilog="Example: stackpad node roles worker-1 | sh")
def roles(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A node's name or id; without one, the roles that all nodes share.")
    ] = "",
    user: Annotated[
        str, typer.Option("--user", metavar="USER", help="The node's user in etcd; its name by default.")
    ] = "",
    socket: Socket = PLACES.plugin,
    as_json: Json = False,
) -> None:
    """Print a node's rights for an etcd with users. With them it may write its own records."""
    lines = etcdroles.shared_commands()
    if name:
        with answering():
            names = {node.id: node.name for node in _cluster(socket).nodes}
            found = identify(name, names)
            lines = etcdroles.node_commands(found, user or names[found])
    if as_json:
        output.show_json(lines)
    else:
        typer.echo("\n".join(lines))


@app.command("rotate-key", epilog="Example: stackpad node rotate-key")
def rotate_key(
    socket: Socket = PLACES.plugin,
    force: Annotated[
        bool, typer.Option("--force", help="Also while nodes are away that would have to join again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give this node a new WireGuard key pair. Its connections go on."""
    with answering():
        done = _told(socket, "/node/rotate-key", {"force": force})
    _done({"silent": done.get("silent") or [], "void_tokens": done.get("void") or 0}, as_json=as_json)
    if done.get("void"):
        output.say(f"{done['void']} unused tokens of this node are void; make new ones with stackpad node token")
    if done.get("silent"):
        output.complain(f"not heard under the new key yet: {', '.join(done['silent'])}; see stackpad node ls")
        raise typer.Exit(PROBLEM)
    output.say("every node that is there has been heard under the new key")


@app.command(epilog="Example: stackpad node leave")
def leave(
    socket: Socket = PLACES.plugin, daemon_json: LeftJson = DAEMON_JSON, yes: Yes = False, as_json: Json = False
) -> None:
    """Take this node out of its cluster. Its networks stay, on this node only."""
    with answering():
        report = _cluster(socket)
        if not yes:
            _confirm(f"containers on {report.name} lose those on other nodes. Leave cluster {report.id}?")
        ended = client.ask(client.plugin(socket), "/node/leave", {}, timeout=SLOW)
        before, settings = daemonjson.read(daemon_json)
        after = daemonjson.without(settings, [report.range4, report.range6])
        docker = None
        if before and settings != after:
            docker = dockerconfig.propose(daemon_json, before, daemonjson.text_of(after), yes=yes, otherwise=LEFT)
    output.say(f"{report.name} is in no cluster any more")
    if not ended["freed"]:
        output.say(_not_freed(report.name))
    if set(daemonjson.asked(settings)).intersection(daemonjson.RESOLVERS):
        output.say(_still_asked(daemon_json, written=docker is not None and docker.written))
    left = {"name": report.name, "node": report.node, "cluster": report.id, "freed": bool(ended["freed"])}
    _done({**left, "daemon_json": None if docker is None else asdict(docker)}, as_json=as_json)


def _not_freed(name: str) -> str:
    return f"the store is away, so nothing was freed there; when it is back, on another node: stackpad node rm {name}"


def _still_asked(daemon_json: Path, *, written: bool) -> str:
    """What holds for names until Docker has read a configuration without our resolver, whose address stays till then."""
    ours = daemonjson.RESOLVERS[0]
    if written:
        return f"until Docker has been restarted, containers ask {ours} for names, which is there until the next reboot"
    return (
        f"{daemon_json} still sends containers to {ours} for names, which is there until the next reboot: take it out of "
        "dns and restart Docker before that, or each name of the outside takes them seconds"
    )


def _told(socket: Path, path: str, given: dict[str, Any]) -> dict[str, Any]:
    """Have something done that takes long, and pass on what is said meanwhile; returns the last line."""
    line: dict[str, Any] = {}
    for line in client.stream(client.plugin(socket), path, given, timeout=SLOW):
        if "say" in line:
            output.say(str(line["say"]))
        elif "error" in line:
            output.complain(str(line["error"]))
            raise typer.Exit(PROBLEM)
    return line


def _cluster(socket: Path, path: str = "/cluster") -> ClusterReport:
    report = client.fetch(client.plugin(socket), path, ClusterReport)
    if not report.member:
        alone = "this node is in no cluster; begin one with stackpad node init, or join one with stackpad node join"
        output.complain("; ".join(report.problems) or alone)
        raise typer.Exit(PROBLEM)
    return report


def _configure_docker(report: ClusterReport, path: Path, engine: Path, *, dns: str, yes: bool) -> Outcome:
    try:
        return dockerconfig.configure(report, path, engine, dns=dns, yes=yes)
    except StackpadError as error:
        output.complain(f"Docker's configuration is as it was: {error}; then: {dockerconfig.LATER}")
        raise typer.Exit(PROBLEM) from error


def _done(value: dict[str, Any], *, as_json: bool) -> None:
    """The result for a script; a person was told on the way."""
    if as_json:
        output.show_json(value)


def _place(report: ClusterReport, docker: Outcome | None) -> dict[str, Any]:
    return {
        "name": report.name,
        "node": report.node,
        "cluster": report.id,
        "daemon_json": None if docker is None else asdict(docker),
    }


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    if found is None:
        # A bare number is most often meant in another unit than the one that would be guessed.
        output.complain(f"--lifetime {text} is not a time with its unit; write 90s, 10m, 2h or 1d")
        raise typer.Exit(USAGE)
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        output.complain(f"{question} Nobody is there to answer; say so with --yes")
        raise typer.Exit(2)
    if not typer.confirm(question, err=True):
        raise typer.Exit(PROBLEM)
