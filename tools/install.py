"""`make install` and `make uninstall`: the plugin and the ingress on a Docker engine that is there already.

The engine is the machine's own, or the one DOCKER_HOST names. Nothing is asked; everything done is said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time

from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import Failed, run, say, step

CONTAINER = "stackpad-ingress"
CADDY_ADMIN = "/run/caddy/admin.sock"
CONFINED = ("--read-only", "--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE", "--security-opt", "no-new-privileges")
"""It writes to its two mounts alone. The capability: Caddy's socket, and files of certificates, may be Caddy's user's."""

PASSED_ON = (
    "BASE_DOMAIN",
    "ORG",
    "TLS",
    "ACME_EMAIL",
    "ACME_CA",
    "ACME_CA_ROOT",
    "ACME_DNS",
    "CERTIFICATES",
    "CADDY_ADMIN",
    "DOMAIN_PROOF",
    "PROOF_DNS",
    "UPSTREAMS",
    "PAGE_LISTEN",
    "ROUTING",
    "NAMES_LISTEN",
    "ACCESS_LOG",
    "LOG_LEVEL",
)


def main() -> int:
    """Install or uninstall; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make install / make uninstall", description=__doc__)
    parser.add_argument("do", choices=("install", "uninstall"))
    wanted = parser.parse_args().do
    try:
        if shutil.which("docker") is None:
            raise Failed("there is no Docker on this machine: no client `docker` is found; install docker.io first")
        engine = run("docker", "version", "--format", "{{.Server.Version}}", check=False).stdout.strip()
        if not engine:
            where = os.environ.get("DOCKER_HOST", "this machine")
            raise Failed(f"no Docker engine answers on {where}; install docker.io or start it, then try again")
        say(f"Docker engine {engine}")
        return install() if wanted == "install" else uninstall()
    except Failed as error:
        say(f"error: {error}")
        return 1


def install() -> int:
    """Create and enable the plugin, anew where it is another version; start the ingress's container."""
    built = images.build()
    with step(f"plugin {PLUGIN}"):
        # Networks stay, and containers on them go on: they are bound to the driver's name.
        remove_plugin()
        run("docker", "plugin", "create", PLUGIN, built.plugin)
        run("docker", "plugin", "enable", PLUGIN)
    if not os.environ.get("BASE_DOMAIN"):
        say("no ingress: say make install BASE_DOMAIN=example.org to have web services published under it")
        return 0
    with step("ingress"):
        archive = next(path for path in built.archives if "ingress" in path.name)
        run("docker", "load", "--quiet", "--input", archive)
        run("docker", "rm", "--force", CONTAINER, check=False)
        settings = [f"--env={name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)]
        certificates = os.environ.get("CERTIFICATES")
        if certificates:
            # The same path as outside: it is also what Caddy is told.
            settings.append(f"--volume={certificates}:{certificates}:ro")
        run(
            "docker", "run", "--detach", "--name", CONTAINER, "--restart", "always", "--network", "host", *CONFINED,
            "--volume", "/run:/run", "--volume", "/var/lib/stackpad:/var/lib/stackpad", *settings, images.INGRESS,
        )  # fmt: skip
        see_it_stay()
    # Caddy writes the address of a unix socket as unix/ and the path, so that there are two slashes.
    listen = json.dumps({"admin": {"listen": f"unix/{os.environ.get('CADDY_ADMIN', CADDY_ADMIN)}"}})
    say(f"the ingress expects a Caddy that has in its configuration: {listen}")
    return 0


def uninstall() -> int:
    """Remove ingress and plugin; networks made with it are to be removed first, and are named."""
    left = run("docker", "network", "ls", "--quiet", "--filter", "driver=stackpad", check=False).stdout.split()
    left += run("docker", "network", "ls", "--quiet", "--filter", f"driver={PLUGIN}:latest", check=False).stdout.split()
    if left:
        raise Failed(f"networks still use the plugin: {' '.join(left)}; remove them with docker network rm, then again")
    run("docker", "rm", "--force", CONTAINER, check=False)
    remove_plugin()
    say("plugin and ingress are removed; /var/lib/stackpad holds their state and can be deleted")
    return 0


def see_it_stay(seconds: float = 3.0) -> None:
    """Raise :class:`Failed` with its last words when the ingress ends as soon as it has started."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if run("docker", "inspect", "--format", "{{.RestartCount}}", CONTAINER).stdout.strip() != "0":
            last = run("docker", "logs", "--tail", "3", CONTAINER, check=False)
            raise Failed(f"the ingress does not stay up; it says:\n{(last.stderr or last.stdout).strip()}")
        time.sleep(0.2)


def remove_plugin() -> None:
    """Remove the plugin where it is installed."""
    run("docker", "plugin", "disable", "--force", PLUGIN, check=False)
    run("docker", "plugin", "rm", "--force", PLUGIN, check=False)


if __name__ == "__main__":
    sys.exit(main())
