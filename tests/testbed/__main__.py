"""The testbed's command line: progress on stderr, one JSON document as the last line of stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.testbed import images, testbed
from tests.testbed.plan import ENGINES
from tests.testbed.shell import ROOT, Failed, say


def main(arguments: list[str] | None = None) -> int:
    """Do what the words say; returns the exit status."""
    options = parser().parse_args(arguments)
    if os.geteuid() != 0:
        say("only root can make network namespaces; use sudo")
        return 1
    try:
        return int(options.do(options))
    except (Failed, ValueError) as error:
        say(f"error: {error}")
        return 1


def _up(options: argparse.Namespace) -> int:
    wanted = testbed.Options(
        plugin=not options.no_plugin, ingress=not options.no_ingress, cluster=not options.no_cluster, keep=options.keep
    )
    there = testbed.bring_up(options.name, options.nodes, options.engine, wanted)
    print(json.dumps(there.document()))
    return 0


def _down(options: argparse.Namespace) -> int:
    chosen = list(testbed.running()) if options.all else [testbed.find(options.name)]
    for there in chosen:
        if there is None:
            say(f"no testbed {options.name} is up")
        else:
            there.down()
            say(f"testbed {there.plan.name} is down")
    return 0


def _status(_: argparse.Namespace) -> int:
    found = []
    for there in testbed.running():
        try:
            found += [there.document()] if there.whole else []
        except (Failed, OSError) as error:
            # Somebody takes it down just now, or an engine of it is stopped.
            say(f"testbed {there.plan.name} is left out: {error}")
    print(json.dumps(found))
    return 0


def _exec(options: argparse.Namespace) -> int:
    there = testbed.find(options.name)
    if there is None:
        raise Failed(f"no testbed {options.name} is up; `up` makes one")
    node = next((node for node in there.nodes if node.name == options.node), None)
    if node is None:
        raise Failed(f"no node {options.node}: there are {', '.join(node.name for node in there.nodes)}")
    words = command_of(options)
    if words[:1] == ["stackpad"]:
        if node.spec.engine != "debian12":
            socket = f"STACKPAD_SOCKET={node.root}/run/stackpad/net.sock"
            raise Failed(f"{node.name} has a tree of its own without Python; from outside: {socket} stackpad …")
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "stackpad.cli", *words[1:]]
    os.execvp("nsenter", [*map(str, node.enter()), *words])  # noqa: S606 - the user's own words


def command_of(options: argparse.Namespace) -> list[str]:
    """The command to run: all after the node's name, less the one ``--`` that may set it apart."""
    words = list(options.command)
    return words[1:] if words[:1] == ["--"] else words


def _images(options: argparse.Namespace) -> int:
    built = images.build(only_plugin=options.plugin)
    print(json.dumps({"plugin": str(built.plugin), "archives": [str(path) for path in built.archives]}))
    return 0


def parser() -> argparse.ArgumentParser:
    """The words there are; ``--name`` is understood before and after the command."""
    made = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    help_of_name = "several testbeds can be up at once, under different names (default: default)"
    made.add_argument("--name", default="default", help=help_of_name)
    # Without a default of its own: a subcommand's would undo what was said before it.
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=argparse.SUPPRESS, help=help_of_name)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", parents=[named], help="bring a testbed up and print what it is")
    up.add_argument("--nodes", type=int, default=1, help="how many Docker hosts (default 1)")
    up.add_argument("--engine", default=ENGINES[0], help=f"{' or '.join(ENGINES)}; or one for each node, with commas")
    up.add_argument("--no-plugin", action="store_true", help="leave the engines as they are")
    up.add_argument("--no-ingress", action="store_true", help="start neither Caddy nor the ingress")
    up.add_argument("--no-cluster", action="store_true", help="leave several nodes apart, each on its own")
    up.add_argument("--keep", action="store_true", help="leave what does not come up as it is, to be looked at")
    up.set_defaults(do=_up)
    down = commands.add_parser("down", parents=[named], help="remove it without a trace")
    down.add_argument("--all", action="store_true", help="every testbed of this machine")
    down.set_defaults(do=_down)
    status = commands.add_parser("status", help="print all that are up")
    status.set_defaults(do=_status)
    execute = commands.add_parser("exec", parents=[named], help="run a command on a node: exec n1 -- ip addr")
    execute.add_argument("node")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(do=_exec)
    built = commands.add_parser("images", help="build what a testbed needs, and print where it is")
    built.add_argument("--plugin", action="store_true", help="the plugin alone")
    built.set_defaults(do=_images)
    return made


if __name__ == "__main__":
    sys.exit(main())
