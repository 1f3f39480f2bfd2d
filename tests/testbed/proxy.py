"""Caddy and the ingress on a node: Caddy as the node's own distribution has it, the ingress from the checkout.

The first node has both, and visitors come in there; the others have the ingress alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.plan import BASE_DOMAIN
from tests.testbed.shell import ROOT, Failed, alive, run, spawn, wait_until

if TYPE_CHECKING:
    from tests.testbed.node import Node

ADMIN = "/run/caddy/admin.sock"


@dataclass(frozen=True, slots=True)
class Proxy:
    """The two processes, started and stopped together or one by one."""

    node: Node

    @property
    def ca(self) -> Path:
        """The root certificate of Caddy's own authority, as seen from the machine."""
        return self.node.home / "caddy-root.crt"

    @property
    def environment(self) -> Mapping[str, str]:
        """The ingress's settings; its sockets are in the node's file system, seen from outside."""
        root = self.node.root
        return {
            "DOCKER_HOST": f"unix://{root}/run/docker.sock",
            "CADDY_ADMIN": f"{root}{ADMIN}",
            "ADMIN_SOCKET": f"{root}/run/stackpad/ingress/ingress.sock",
            "NET_SOCKET": f"{root}/run/stackpad/web/web.sock",
            "STATE_DIR": f"{root}/var/lib/stackpad/ingress",
            "BASE_DOMAIN": BASE_DOMAIN,
            "ORG": "acme",
            "TLS": "internal",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, base: Mapping[str, object] | None = None, **settings: str) -> None:
        """Start Caddy with ``base`` as its configuration, then the ingress, with ``settings`` beside its own."""
        self.start_caddy(base)
        self.start_ingress(**settings)
        wait_until("Caddy's own authority", self._fetch_ca, 60, 0.2)

    def stop(self) -> None:
        """Stop both."""
        self.stop_ingress()
        self.stop_caddy()

    def start_caddy(self, base: Mapping[str, object] | None = None) -> None:
        """Start Caddy and wait for its admin socket."""
        config = {"admin": {"listen": f"unix/{ADMIN}"}, **(base or {})}
        file = self.node.root / "run/caddy.json"
        self.node.exec("mkdir", "-p", "/run/caddy", "/var/lib/caddy")
        self.node.exec("rm", "-f", ADMIN)
        file.write_text(json.dumps(config))
        places = "XDG_DATA_HOME=/var/lib/caddy XDG_CONFIG_HOME=/run/caddy"
        script = f"umask 0007; {places} exec caddy run --config /run/caddy.json"
        enter = self.node.enter()
        pid = spawn([*enter, "sh", "-c", script], self.node.home / "caddy.log")
        (self.node.home / "caddy.pid").write_text(str(pid))
        wait_until("Caddy", (self.node.root / ADMIN.lstrip("/")).exists)

    def stop_caddy(self, how: int = signal.SIGTERM) -> None:
        """End Caddy."""
        self._stop("caddy", how)

    def start_ingress(self, *, python: Sequence[str] = ("-m", "ingress"), **settings: str) -> None:
        """Start the ingress from the checkout, in the node's network; ``python`` are Python's arguments."""
        enter = ["nsenter", f"--net=/run/netns/{self.node.spec.netns}", sys.executable, *python]
        pid = spawn(enter, self.node.home / "ingress.log", env={**self.environment, **settings})
        (self.node.home / "ingress.pid").write_text(str(pid))

    def stop_ingress(self, how: int = signal.SIGTERM) -> None:
        """End the ingress."""
        self._stop("ingress", how)

    @contextlib.contextmanager
    def ingress_suspended(self) -> Iterator[None]:
        """Meanwhile the ingress does nothing at all, as on a machine that has no time for it."""
        pid = int((self.node.home / "ingress.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def log(self, which: str, lines: int = 30) -> str:
        """The last lines of ``caddy``'s or ``ingress``'s log."""
        return "\n".join((self.node.home / f"{which}.log").read_text(errors="replace").splitlines()[-lines:])

    def _stop(self, which: str, how: int) -> None:
        file = self.node.home / f"{which}.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, Failed):
            pid = int(file.read_text())
            os.kill(pid, how)
            wait_until(f"the end of {which}", lambda: not alive(pid))
        file.unlink(missing_ok=True)

    def _fetch_ca(self) -> bool:
        certificate = self.node.root / "var/lib/caddy/caddy/pki/authorities/local/root.crt"
        if not certificate.exists():
            pid = int((self.node.home / "ingress.pid").read_text())
            if not alive(pid):
                raise Failed(f"the ingress ended:\n{self.log('ingress', 12)}")
            return False
        run("cp", certificate, self.ca)
        return True
