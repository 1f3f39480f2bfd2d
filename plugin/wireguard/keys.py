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
    """The private key, made at the first use."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._current = self._load("private.key") or self._make("private.key")
        self._public = public_key(self._current)

    @property
    def private_key(self) -> str:
        """The private key."""
        return self._current

    @property
    def public_key(self) -> str:
        """The public key."""
        return self._public

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
