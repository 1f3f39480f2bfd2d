"""Somebody in the middle of a wire: frames late, in another order, and some of them twice; seeded.

``python -m tests.chaos.shuffle NEAR FAR SEED`` passes frames between two links of the namespace it runs in, until it is
ended (SIGTERM), and then says what it did: ``passed 31207, late 1584, twice 610``. It is for kernels without netem.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import selectors
import signal
import socket
import sys
import time
from types import FrameType

LATE = 0.05
"""Part of the frames that wait while later ones pass."""

TWICE = 0.02
"""Part of the frames of which a copy follows."""

WAITS = (0.002, 0.02)
"""Seconds a frame, or a copy, waits."""

_PACKET = 263
_VNET_HEADER, _IGNORE_OUTGOING = 15, 23
_ALL = 0x0003


class Shuffle:
    """What becomes of each frame; pure but for its clock's readings, which it is given."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = itertools.count()
        self.passed = self.late = self.twice = 0

    def take(self, frame: bytes, side: int, now: float) -> bool:
        """Whether a frame for ``side`` goes on at once; what does not, and copies, come from :meth:`due`."""
        self.passed += 1
        late, twice = self._random.random() < LATE, self._random.random() < TWICE
        self.late += late
        self.twice += twice
        for _ in range(late + twice):
            when = now + self._random.uniform(*WAITS)
            heapq.heappush(self._waiting, (when, next(self._number), side, frame))
        return not late

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Frames whose time has come, with their sides."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            _, _, side, frame = heapq.heappop(self._waiting)
            found.append((side, frame))
        return found

    def patience(self, now: float) -> float | None:
        """Seconds until the next one is due; ``None`` if none waits."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None


def tap(link: str) -> socket.socket:
    """A socket for whole frames of a link, each with what is left to do to it (checksums, cutting into packets)."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(_PACKET, _VNET_HEADER, 1)
    made.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    made.setblocking(False)
    made.bind((link, _ALL))
    return made


def serve(near: str, far: str, seed: str) -> Shuffle:
    """Pass frames until SIGTERM; those that wait then go on at once."""
    ended = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    sides = (tap(near), tap(far))
    shuffle = Shuffle(seed)
    with selectors.DefaultSelector() as selector:
        for number, side in enumerate(sides):
            selector.register(side, selectors.EVENT_READ, 1 - number)
        print("ready", flush=True)
        while not ended:
            wait = shuffle.patience(time.monotonic())
            for key, _ in selector.select(0.5 if wait is None else wait):
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        frame = key.fileobj.recv(1 << 17)  # type: ignore[union-attr]
                        if shuffle.take(frame, key.data, time.monotonic()):
                            _send(sides[key.data], frame)
            for side_number, frame in shuffle.due(time.monotonic()):
                _send(sides[side_number], frame)
        for side_number, frame in shuffle.due(float("inf")):
            _send(sides[side_number], frame)
    return shuffle


def _send(side: socket.socket, frame: bytes) -> None:
    with contextlib.suppress(OSError):
        side.send(frame)


if __name__ == "__main__":
    made = serve(*sys.argv[1:4])
    print(f"passed {made.passed}, late {made.late}, twice {made.twice}", flush=True)
