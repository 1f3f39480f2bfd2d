"""``python -m plugin``: binds the sockets, then loads the rest and serves.

Run by Docker as the entry point of the managed plugin; or from a checkout, where ``HOST_RUN=/run HOST_PROC=/proc
HOST_LIB=/var/lib`` make it a plugin of the machine's own engine under the name ``stackpad``. Either way it keeps three
capabilities only, and reads no file that its mode closes to root: so the checkout is root's, or for everybody to read.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from plugin import privileges, sockets, supervisor


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    if "--version" in sys.argv[1:]:
        from importlib.metadata import version

        sys.stdout.write(f"stackpad {version('stackpad')}\n")
        return 0
    if len(sys.argv) > 1:
        sys.stdout.write(f"{__doc__}\nSettings come from the environment; see the README.\n")
        return 0 if "--help" in sys.argv[1:] else 2
    # While there is one thread: each has privileges of its own.
    refused = privileges.give_up()
    run = Path(os.environ.get("HOST_RUN") or "/host/run")
    if os.getpid() == 1:
        status = supervisor.supervise()
        if status is not None:
            # One that was killed has left them, and there is no other.
            with contextlib.suppress(OSError):
                sockets.clear(run)
            return status
    held = sockets.alone(run / "stackpad")
    if held is None:
        sys.stderr.write(
            f"stackpad: another plugin of ours is at work on this node (it holds {run}/stackpad/plugin.lock), and two "
            "would take each other's sockets and networks; disable one of them, see docker plugin ls\n"
        )
        return 1
    managed, plain = sockets.MANAGED, sockets.host_socket(run)
    # From a checkout both names are the same.
    paths = [plain] if run == Path("/run") else [managed, plain]
    with held:
        listening = [sockets.listen(path) for path in paths]
        try:
            from plugin import app

            return app.main(listening, refused)
        finally:
            for listener in listening:
                listener.remove()


if __name__ == "__main__":
    sys.exit(main())
