"""The testbed's command line: progress on stderr, one JSON document as the last line of stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.testbed import images, testbed
from tests.testbed.plan import ENGINES
from tests.testbed.shell import Failed, say


def main(arguments: list[str] | None = None) -> int:
    """Do what the words say; returns the exit status."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        say("only root can make network namespaces; use sudo")
        return 1
    try:
        return int(options.do(options))
    except (Failed, ValueError) as error:
        say(f"error: {error}")
        return 1


def _up(options: argparse.Namespace) -> int:
    there = testbed.find(options.name)
    if there is None:
        there = testbed.make(options.name, options.nodes, options.engine)
        there.up(testbed.Options(plugin=not options.no_plugin, ingress=not options.no_ingress))
    else:
        say(f"testbed {options.name} is up already; `down` first for another one")
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
    print(json.dumps([there.document() for there in testbed.running()]))
    return 0


def _exec(options: argparse.Namespace) -> int:
    there = testbed.find(options.name)
    if there is None:
        raise Failed(f"no testbed {options.name} is up; `up` makes one")
    node = next((node for node in there.nodes if node.name == options.node), None)
    if node is None:
        raise Failed(f"no node {options.node}: there are {', '.join(node.name for node in there.nodes)}")
    command = [word for word in options.command if word != "--"]
    os.execvp("nsenter", [*map(str, node.enter()), *command])  # noqa: S606 - the user's own words


def _images(options: argparse.Namespace) -> int:
    built = images.build(only_plugin=options.plugin)
    print(json.dumps({"plugin": str(built.plugin), "archives": [str(path) for path in built.archives]}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    parser.add_argument("--name", default="default", help="several testbeds can be up at once, under different names")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring a testbed up and print what it is")
    up.add_argument("--nodes", type=int, default=1, help="how many Docker hosts (default 1)")
    up.add_argument("--engine", default=ENGINES[0], help=f"{' or '.join(ENGINES)}; or one for each node, with commas")
    up.add_argument("--no-plugin", action="store_true", help="leave the engines as they are")
    up.add_argument("--no-ingress", action="store_true", help="start neither Caddy nor the ingress")
    up.set_defaults(do=_up)
    down = commands.add_parser("down", help="remove it without a trace")
    down.add_argument("--all", action="store_true", help="every testbed of this machine")
    down.set_defaults(do=_down)
    status = commands.add_parser("status", help="print all that are up")
    status.set_defaults(do=_status)
    execute = commands.add_parser("exec", help="run a command on a node: exec n1 -- ip addr")
    execute.add_argument("node")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(do=_exec)
    built = commands.add_parser("images", help="build what a testbed needs, and print where it is")
    built.add_argument("--plugin", action="store_true", help="the plugin alone")
    built.set_defaults(do=_images)
    return parser


if __name__ == "__main__":
    sys.exit(main())
