"""The sandbox of `make up`: one Docker host with two environments of one project, each with its own guestbook.

Everything is what a user would have: networks made with `docker network create`, containers started with `docker run`,
a page over HTTPS through Caddy. Only the host is a sandbox, so that it can vanish again.
"""

from __future__ import annotations

import argparse
import json
import sys

from tests.testbed import images, testbed
from tests.testbed.node import Node
from tests.testbed.plan import BASE_DOMAIN
from tests.testbed.shell import Failed, run, say, step, wait_until
from tests.testbed.testbed import Testbed

NAME = "demo"
PROJECT, ORG = "my-app", "acme"
ENVIRONMENTS = ("production", "staging")


def main() -> int:
    """Bring the sandbox up or take it down; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make up / make down", description=__doc__)
    parser.add_argument("do", choices=("up", "down"))
    try:
        return _up() if parser.parse_args().do == "up" else _down()
    except Failed as error:
        say(f"error: {error}")
        return 1


def host(environment: str) -> str:
    """The host name of an environment's web service."""
    first = PROJECT if environment == "production" else f"{PROJECT}-{environment}"
    return f"{first}.{ORG}.{BASE_DOMAIN}"


def start(node: Node, environment: str) -> None:
    """One environment on a node: its network and three containers; what is there already stays."""
    network = f"{PROJECT}-{environment}"
    there = node.docker("ps", "--all", "--format", "{{.Names}}").split()
    if network not in node.docker("network", "ls", "--format", "{{.Name}}").split():
        node.docker("network", "create", "--driver", "stackpad", network)
    database, cache = ["sh", "/app/database.sh"], ["redis-server", "--protected-mode", "no", "--save", ""]
    web = ["--env", f"ENVIRONMENT={environment}", "--label", "stackpad.type=web", "--label", "stackpad.port=8080"]
    for name, options, command in (("postgres", [], database), ("redis", [], cache), ("web", web, [])):
        if f"{network}-{name}" not in there:
            node.docker(
                "run", "--detach", "--name", f"{network}-{name}", "--network", network, "--network-alias", name,
                *options, images.EXAMPLE, *command,
            )  # fmt: skip


def page(there: Testbed, environment: str) -> tuple[int, str]:
    """Status and body of an environment's page, asked for from this machine; 0 without an answer."""
    name, address = host(environment), there.nodes[0].address
    done = run(
        "curl", "--silent", "--max-time", "5", "--cacert", there.proxy.ca, "--resolve", f"{name}:443:{address}",
        "--write-out", "\n%{http_code}", f"https://{name}/", check=False,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def _up() -> int:
    there = testbed.bring_up(NAME, 1, "debian12", testbed.Options())
    with step("two environments, each with web, PostgreSQL and Redis"):
        for environment in ENVIRONMENTS:
            start(there.nodes[0], environment)
    for environment in ENVIRONMENTS:
        with step(f"https://{host(environment)}/"):
            wait_until(f"the page of {environment}", lambda name=environment: page(there, name)[0] == 200, 90, 0.2)
    _explain(there)
    print(json.dumps(there.document()))  # noqa: T201 - for programs
    return 0


def _down() -> int:
    there = testbed.find(NAME)
    if there is None:
        say("the sandbox is not up")
    else:
        there.down()
        say("the sandbox is gone")
    return 0


def _explain(there: Testbed) -> None:
    node, name = there.nodes[0], host("production")
    sys.stderr.write(
        f"""
A Docker host of its own is up, with my-app-production and my-app-staging on it. Try:

  curl --cacert {there.proxy.ca} --resolve {name}:443:{node.address} https://{name}/
  export DOCKER_HOST={node.docker_host}
  docker ps; docker network ls
  docker exec my-app-production-web python3 -c 'import socket; print(socket.gethostbyname("postgres"))'
  docker exec my-app-staging-web python3 -c 'import socket; print(socket.gethostbyname("postgres"))'
  export STACKPAD_SOCKET={node.root}/run/stackpad/net.sock
  export STACKPAD_INGRESS_SOCKET={node.root}/run/stackpad/ingress/ingress.sock
  export STACKPAD_PAGE_SOCKET={node.root}/run/stackpad/ingress/page.sock
  .venv/bin/stackpad status; .venv/bin/stackpad routes; .venv/bin/stackpad --help
  .venv/bin/stackpad page

`make down` removes all of it.
"""
    )


if __name__ == "__main__":
    sys.exit(main())
