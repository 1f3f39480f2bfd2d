"""Who owns which host name, on disk: a restart must not hand a name to whoever asks first afterwards.

What is decided holds in memory at once, and on disk as soon as that can be written: a full disk costs nobody a route.
Beside it is the secret that proofs are made with; without it, every token an owner has put into DNS would be void.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from ingress.owners.ledger import Claim, How, Ledger, Proof, Released, Ruling, lean
from stackpad import files, jsontext
from stackpad.errors import Unavailable

SCHEMA = 2
"""Layout of the file. The first one had no number: nothing but claims, without proofs."""

SECRET_BYTES = 32


class _File(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    claims: dict[str, Claim]
    rulings: dict[str, Ruling]
    released: dict[str, Released]


class Claims:
    """The ledger as last decided, in one JSON file that is replaced whole, and the secret in a file of its own."""

    def __init__(self, path: Path) -> None:
        """Read ``path``; raises :class:`Unavailable` if it is there and cannot be read."""
        self._path = path
        self._secret_path = path.with_name("proof.key")
        self.current = Ledger()
        try:
            self.current = _read(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"{path} cannot be read: {error}; repair it, or remove it to have names claimed anew"
            ) from error
        self._saved = self.current
        self.secret, self._secret_saved = self._load_secret()
        with contextlib.suppress(Unavailable):  # told when the claims are to be saved
            self._save_secret()

    def decide(self, ledger: Ledger) -> None:
        """From now on this holds."""
        self.current = ledger

    def save(self) -> None:
        """Have on disk what holds, if it is not there yet; raises :class:`Unavailable`."""
        if self.current == self._saved and self._secret_saved:
            return
        self._save_secret()
        ledger = self.current
        content = msgspec.to_builtins(_File(SCHEMA, dict(ledger.claims), dict(ledger.rulings), dict(ledger.released)))
        content["claims"] = {host: lean(claim) for host, claim in content["claims"].items()}
        self._replace(self._path, msgspec.json.encode(content))
        self._saved = ledger

    def _save_secret(self) -> None:
        if not self._secret_saved:
            self._replace(self._secret_path, self.secret.hex().encode() + b"\n")
            self._secret_saved = True

    def _replace(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"who owns which host cannot be kept: {path} cannot be written: {error}") from error
        files.replace(path, data)

    def _load_secret(self) -> tuple[bytes, bool]:
        try:
            secret = bytes.fromhex(self._secret_path.read_text().strip())
        except FileNotFoundError:
            return secrets.token_bytes(SECRET_BYTES), False
        except (OSError, ValueError) as error:
            secret, reason = b"", str(error)
        else:
            reason = f"it has {len(secret)} bytes"
        if len(secret) != SECRET_BYTES:
            raise Unavailable(
                f"{self._secret_path} is not the secret that proofs of domains are made with: {reason}; restore it from "
                "a copy, or remove it: domains that are proved stay so, others get new tokens"
            )
        return secret, True


def _read(data: bytes) -> Ledger:
    parts = jsontext.decode(data, type=dict[str, msgspec.Raw])
    if "schema" not in parts:  # no host name: those have dots
        return _first_layout(jsontext.decode(data, type=dict[str, Claim]))
    schema = jsontext.decode(parts["schema"])
    if schema != SCHEMA:
        raise msgspec.ValidationError(f"its layout {ascii(schema)[:20]} is not one this version knows (1, {SCHEMA})")
    found = jsontext.decode(data, type=_File)
    return Ledger(found.claims, found.rulings, found.released)


def _first_layout(claims: Mapping[str, Claim]) -> Ledger:
    """From before domains had to be proved: what was served then has been allowed, and is served on."""
    return Ledger({host: replace(claim, proof=Proof(claim.since, How.OPERATOR)) for host, claim in claims.items()})
