"""`make install` and `make uninstall`: the plugin and the ingress on a Docker engine that is there already.

The ingress has no part in the engine's socket but by a view of it, a container of its own (`ingress/engineview`).
The engine is the machine's own, or the one DOCKER_HOST names. Nothing is asked; everything done is said.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import PurePosixPath

from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import Failed, run, say, step

CONTAINER, VIEW = "stackpad-ingress", "stackpad-view"
CADDY_ADMIN = "/run/caddy/admin.sock"
ENGINE_AT = PurePosixPath("/run")
"""Where the engine's socket is. It is made anew at each of its starts, so that its directory is mounted, and not it."""

PLUGINS = ("/run/stackpad", "/var/lib/stackpad")
"""Where the plugin's sockets and files are; the ingress and its view have directories of their own in there."""

WEB, INGRESS, SHOWN = (f"/run/stackpad/{name}" for name in ("web", "ingress", "view"))
"""The plugin's socket for the ingress; the ingress's own sockets; the view's."""

STATE = "/var/lib/stackpad/ingress"
ENGINE_SHOWN = f"{SHOWN}/engine.sock"

_SHORT = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
_ALONE = ("--restart", "always", *_SHORT)
USER = "0:65533"
"""The ingress's user and group. By the group the plugin's firewall keeps it from the cluster's embedded store."""

CONFINED = (*_ALONE, "--network", "host", "--user", USER, "--cap-add", "DAC_OVERRIDE")
"""The ingress writes to its mounts alone. The capability: Caddy's socket, and files of certificates, may be Caddy's
user's."""

VIEW_CONFINED = (*_ALONE, "--network", "none", "--entrypoint", "/opt/stackpad/bin/python")
"""The view has the engine's socket, and nothing that anybody but the ingress could reach."""

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
    mounts = ingress_mounts(os.environ.get("CADDY_ADMIN") or CADDY_ADMIN)
    built = images.build()
    with step(f"plugin {PLUGIN}"):
        # Networks stay, and containers on them go on: they are bound to the driver's name.
        remove_plugin()
        run("docker", "plugin", "create", PLUGIN, built.plugin)
        run("docker", "plugin", "enable", PLUGIN)
    if not os.environ.get("BASE_DOMAIN"):
        say("no ingress: say make install BASE_DOMAIN=example.org to have web services published under it")
        return 0
    with step("view of the engine"):
        archive = next(path for path in built.archives if "ingress" in path.name)
        run("docker", "load", "--quiet", "--input", archive)
        remove_container(VIEW)
        run(
            "docker", "run", "--detach", "--name", VIEW, *VIEW_CONFINED, f"--volume={ENGINE_AT}:{ENGINE_AT}:ro",
            f"--volume={SHOWN}:{SHOWN}", f"--env=VIEW_SOCKET={ENGINE_SHOWN}", images.INGRESS, "-m", "ingress.engineview",
        )  # fmt: skip
        see_it_stay(VIEW)
    with step("ingress"):
        remove_container(CONTAINER)
        carry_over()
        settings = [f"--env={name}={os.environ[name]}" for name in PASSED_ON if os.environ.get(name)]
        certificates = os.environ.get("CERTIFICATES")
        if certificates:
            # The same path as outside: it is also what Caddy is told.
            settings.append(f"--volume={certificates}:{certificates}:ro")
        mounted = [f"--volume={mount}" for mount in mounts]
        settings.append(f"--env=DOCKER_HOST=unix://{ENGINE_SHOWN}")
        run("docker", "run", "--detach", "--name", CONTAINER, *CONFINED, *mounted, *settings, images.INGRESS)
        see_it_stay(CONTAINER)
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
    remove_container(CONTAINER)
    remove_container(VIEW)
    remove_plugin()
    say("plugin and ingress are removed; /var/lib/stackpad holds their state and can be deleted")
    return 0


def ingress_mounts(caddy_admin: str) -> list[str]:
    """What the ingress's container is given: directories of its own, who it asks, and that of Caddy's admin socket.

    Others' sockets are given with their directories, for they are made anew; read-only, which does not keep from
    connecting. Raises :class:`Failed` where Caddy's would bring the engine's socket with it, or the plugin's.
    """
    path = PurePosixPath("/" + caddy_admin.lstrip("/"))
    if not caddy_admin.startswith("/") or ".." in path.parts:
        raise Failed(f"CADDY_ADMIN={caddy_admin} is not an absolute path such as {CADDY_ADMIN}")
    # The one is the other on every distribution of today.
    directory = PurePosixPath("/run", *path.parts[3:-1]) if path.parts[:3] == ("/", "var", "run") else path.parent
    theirs = {str(ENGINE_AT): "the engine's socket", **dict.fromkeys(PLUGINS, "what is the plugin's")}
    for place, what in theirs.items():
        if PurePosixPath(place).is_relative_to(directory):
            raise Failed(
                f"CADDY_ADMIN={caddy_admin} is in {directory}, with {what}, which the ingress is not to have; "
                f"give Caddy's admin socket a directory of its own, as {CADDY_ADMIN} has"
            )
    own, asked = [INGRESS, STATE], [WEB, SHOWN]
    mounts = [*(f"{one}:{one}" for one in own), *(f"{one}:{one}:ro" for one in asked)]
    return mounts if directory.is_relative_to(INGRESS) else [*mounts, f"{path.parent}:{path.parent}"]


def carry_over() -> None:
    """Give the new ingress the state of one that had it among the plugin's files; that one does not run any more."""
    library = PLUGINS[1]
    said = run(
        "docker", "run", "--rm", *_SHORT, "--network", "none", f"--volume={library}:{library}", "--entrypoint",
        "/opt/stackpad/bin/python", images.INGRESS, "-m", "ingress.carryover",
    ).stdout  # fmt: skip
    for line in said.splitlines():
        say(line)


def remove_container(name: str) -> None:
    """Stop a container and remove it, where there is one: what it listens at goes with it."""
    run("docker", "stop", "-t", "10", name, check=False)
    run("docker", "rm", "--force", name, check=False)


def see_it_stay(container: str, seconds: float = 3.0) -> None:
    """Raise :class:`Failed` with its last words when a container ends as soon as it has started."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if run("docker", "inspect", "--format", "{{.RestartCount}}", container).stdout.strip() != "0":
            last = run("docker", "logs", "--tail", "3", container, check=False)
            raise Failed(f"{container} does not stay up; it says:\n{(last.stderr or last.stdout).strip()}")
        time.sleep(0.2)


def remove_plugin() -> None:
    """Remove the plugin where it is installed."""
    run("docker", "plugin", "disable", "--force", PLUGIN, check=False)
    run("docker", "plugin", "rm", "--force", PLUGIN, check=False)


if __name__ == "__main__":
    sys.exit(main())
