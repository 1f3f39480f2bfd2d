"""``python -m ingress.engineview``: shows an ingress what it reads of the Docker engine, and lets it change nothing."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ingress import mounts
from ingress.engineview.proxy import serve
from stackpad.errors import InvalidRequest, StackpadError
from stackpad.runtime import configure_logging

LEVELS = ("debug", "info", "warning", "error")

HELP = {
    "DOCKER_HOST": "the engine's socket (default: unix:///run/docker.sock)",
    "VIEW_SOCKET": "the view's own socket (default: /run/stackpad/engine.sock)",
    "LOG_LEVEL": "debug, info, warning or error (default: info)",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set; see :data:`HELP`."""

    engine: Path
    socket: Path
    log_level: str

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; raises :class:`InvalidRequest` naming the setting and what would be right."""

        def text(name: str, default: str) -> str:
            return environment.get(name, "").strip() or default

        scheme, _, engine = text("DOCKER_HOST", "unix:///run/docker.sock").partition("://")
        if scheme != "unix" or not engine.startswith("/"):
            raise InvalidRequest("DOCKER_HOST is no socket of this node, such as unix:///run/docker.sock")
        socket = Path(text("VIEW_SOCKET", "/run/stackpad/engine.sock"))
        if not socket.is_absolute() or socket == Path(engine):
            raise InvalidRequest(f"VIEW_SOCKET={socket} is no absolute path of its own, as /run/stackpad/engine.sock is")
        level = text("LOG_LEVEL", "info").lower()
        if level not in LEVELS:
            raise InvalidRequest(f"LOG_LEVEL={level!r} is unknown; use one of {', '.join(LEVELS)}")
        return cls(Path(engine), socket, level)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises where the directory of the socket is gone."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(mounts.watch(settings.socket.parent), name="mounts")
        await serve(settings.engine, settings.socket, stop)
        watching.cancel()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit status."""
    argparse.ArgumentParser(
        prog="python -m ingress.engineview",
        description=__doc__,
        epilog="Settings, from the environment:\n" + "".join(f"  {name:14} {text}\n" for name, text in HELP.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    reasons: list[BaseException] = []
    try:
        settings = Settings.load()
        configure_logging(settings.log_level)
        asyncio.run(run(settings))
    except* (StackpadError, OSError) as group:
        reasons += group.exceptions
    for reason in reasons:
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        sys.stderr.write(f"engine view: {reason}\n")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
