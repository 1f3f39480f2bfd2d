"""Who owns which host name, on disk: a restart must not hand a name to whoever asks first afterwards.

What is decided holds in memory at once, and on disk as soon as that can be written: a full disk costs nobody a route.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ingress.routes import Claim
from stackpad.errors import Unavailable


class Claims:
    """The claims as last decided, in one JSON file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; raises :class:`Unavailable` if it is there and cannot be read."""
        self._path = path
        self.current: dict[str, Claim] = {}
        try:
            self.current = msgspec.json.decode(path.read_bytes(), type=dict[str, Claim])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"{path} cannot be read: {error}; repair it, or remove it to have names claimed anew"
            ) from error
        self._saved = dict(self.current)

    def decide(self, claims: Mapping[str, Claim]) -> None:
        """From now on these hold."""
        self.current = dict(claims)

    def save(self) -> None:
        """Have on disk what holds, if it is not there yet; raises :class:`Unavailable`."""
        if self.current == self._saved:
            return
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(msgspec.json.encode(self.current))
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._path)
        except OSError as error:
            raise Unavailable(f"who owns which host cannot be kept: {self._path} cannot be written: {error}") from error
        self._saved = dict(self.current)
