"""The node's key pair: a file of its own, readable by root only, the same over restarts and reboots.

Keys are base64 as WireGuard's own tools write them (RFC 7748 X25519).
"""

from __future__ import annotations

import base64
import stat
from pathlib import Path

from wireguard_tools import WireguardKey

from stackpad import files
from stackpad.errors import Unavailable


def generate() -> str:
    """A new private key."""
    return str(WireguardKey.generate())


def public_key(private: str) -> str:
    """The public key that belongs to a private one."""
    return str(WireguardKey(private).public_key())


class Keys:
    """The private key, made at the first use, and the next one while there is a change.

    A change has three steps: :meth:`prepare` makes the next key, :meth:`commit` makes it the one on disk, which is what
    counts after a restart, and :meth:`use` takes it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept = self._used = self._load("private.key") or self._make("private.key")
        self._next = self._load("next.key")
        if self._next == self._kept:
            self._next = None  # the process ended between the two steps of commit

    @property
    def private_key(self) -> str:
        """The private key in use."""
        return self._used

    @property
    def public_keys(self) -> tuple[str, ...]:
        """The public keys for others: the one that counts, and the next one if there is one."""
        return tuple(public_key(key) for key in (self._kept, self._next) if key is not None)

    @property
    def changing(self) -> bool:
        """Whether the key on disk is not in use yet."""
        return self._kept != self._used

    def prepare(self) -> None:
        """Make the next key, if there is none yet; blocking, raises :class:`Unavailable`."""
        self._next = self._next or self._make("next.key")

    def commit(self) -> None:
        """Make the next key the one on disk; blocking, raises :class:`Unavailable`."""
        if self._next is None:
            return
        files.replace(self._directory / "private.key", f"{self._next}\n".encode())
        self._kept, self._next = self._next, None
        files.remove(self._directory / "next.key")

    def use(self) -> None:
        """Use the key that is on disk."""
        self._used = self._kept

    def _load(self, name: str) -> str | None:
        path = self._directory / name
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
            text = path.read_text().strip()
            if len(base64.b64decode(text, validate=True)) != 32:
                raise ValueError("it does not have 32 bytes")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"the key in {path} cannot be used: {error}; restore it, or remove the file and join the cluster again"
            ) from error
        return text

    def _make(self, name: str) -> str:
        path = self._directory / name
        private = generate()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._directory} cannot be made: {error}; make room or repair the disk") from error
        files.replace(path, f"{private}\n".encode())
        return private
