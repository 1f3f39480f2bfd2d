"""Somebody in the middle of a unix socket's connections, who can cut them all, also at a byte that was agreed on."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Relay:
    """Listens at ``path`` and passes on to ``target``; ``limit`` is after how many bytes to it everything is cut."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path, self._target = path, target
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._listening: socket.socket | None = None
        self.passed = 0
        self.limit: int | None = None

    def open(self) -> None:
        """Listen, from now on or again."""
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._path))
        listening.listen(64)
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def cut(self) -> None:
        """End every connection, and take no new one."""
        with self._lock:
            ends, self._ends = self._ends, []
            listening, self._listening = self._listening, None
        self._path.unlink(missing_ok=True)
        for end in [*ends, *([listening] if listening else [])]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._target))
                with self._lock:
                    self._ends += [near, far]
                for one, other, counted in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass, args=(one, other, counted), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if counted and self.limit is not None and self.passed + len(data) >= self.limit:
                    sink.sendall(data[: self.limit - self.passed])
                    self.cut()
                    return
                self.passed += len(data) if counted else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
