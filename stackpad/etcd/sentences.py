"""What went wrong with the store, in sentences that name the endpoint and the remedy. Pure.

``STORE`` and its companions are the settings' names; they are spelt here and nowhere else in the client.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

ENDPOINTS: Final = "STORE"
CA, CERTIFICATE, KEY = "STORE_CA", "STORE_CERT", "STORE_KEY"
USER, PASSWORD = "STORE_USER", "STORE_PASSWORD"

_DEADLINE, _UNAVAILABLE, _UNKNOWN, _ABORTED, _INTERNAL, _CANCELLED = 4, 14, 2, 10, 13, 1


def unanswered(code: int) -> bool:
    """Whether this gRPC code leaves open what happened: a leader lost, a time-out inside the cluster."""
    return code in {_CANCELLED, _UNKNOWN, _DEADLINE, _ABORTED, _INTERNAL, _UNAVAILABLE}


def token_expired(unauthenticated: bool, text: str) -> bool:
    """Whether a new token helps: it expired, its member forgot it, or users and roles have changed since."""
    return unauthenticated or "invalid auth token" in text or "auth store is old" in text


def is_tls(error: BaseException) -> bool:
    """Whether TLS was refused: then nothing was done."""
    return _ssl_error(error) is not None


def unreachable(url: str, error: BaseException) -> str:
    """No connection to ``url``."""
    tls = _ssl_error(error)
    if tls is not None:
        return _tls(url, tls)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return (
            f"store {url} did not take the connection in time; "
            f"check that its node is up, that no firewall drops the port, and {ENDPOINTS}"
        )
    reason = getattr(error, "os_error", None) or error
    text = (getattr(reason, "strerror", None) or str(reason)).split(" [")[0]
    if url.startswith("https:") and isinstance(reason, ConnectionResetError):
        return f"{url} hung up when TLS began; write http:// in {ENDPOINTS} if etcd has no TLS there"
    return f"no connection to the store at {url} ({text}); check that etcd runs there, and {ENDPOINTS}"


def silent(url: str, seconds: float) -> str:
    """No answer."""
    return f"store {url} did not answer within {seconds:g} s; check that most of its members run and reach each other"


def broken(url: str, error: BaseException) -> str:
    """The connection ended amid a request."""
    tls = _ssl_error(error)
    if tls is not None:
        return _tls(url, tls)
    text = str(error) or type(error).__name__
    return f"the connection to the store at {url} broke ({text}); check whether etcd was stopped there"


def not_etcd(url: str, detail: str) -> str:
    """Somebody else answers."""
    return f"what answers at {url} is not etcd's v3 gateway ({detail}); check {ENDPOINTS}: host, port, http or https"


def not_gateway(url: str, status: int, body: bytes) -> str:
    """A refusal before etcd's own calls are reached."""
    text = body.decode("utf-8", "replace").strip()[:200]
    if "CommonName" in text:
        return (
            f"store {url} refuses the certificate that {CERTIFICATE} names, since its subject has a CommonName: with "
            f"passwords on, etcd's gateway takes only certificates without one; make one with an empty subject"
        )
    if "HTTP request to an HTTPS server" in text:
        return f"{url} wants TLS; write https:// in {ENDPOINTS}"
    return not_etcd(url, f"HTTP status {status}: {text!r}")


def files(paths: Sequence[Path | None], error: OSError) -> str:
    """Our own TLS files."""
    for path, setting in zip(paths, (CA, CERTIFICATE, KEY), strict=True):
        try:
            if path is not None:
                path.open("rb").close()
        except FileNotFoundError:
            return f"there is no file {path}, which {setting} names"
        except PermissionError:
            return f"{path}, which {setting} names, is closed to the plugin: make it and the directories above it root's"
        except OSError:
            break
    _, certificate, key = paths
    if "KEY_VALUES_MISMATCH" in str(error):
        return f"the key in {key} ({KEY}) does not belong to the certificate in {certificate} ({CERTIFICATE})"
    named = ", ".join(f"{path} ({name})" for path, name in zip(paths, (CA, CERTIFICATE, KEY), strict=True) if path)
    return f"the TLS files {named} cannot be read: {error}; they must be PEM, the key without a passphrase"


def refused(url: str, text: str, user: str) -> str:
    """Etcd's own refusal, with what to do about it."""
    said = text.split("desc = ")[-1]
    for part, remedy in (
        ("invalid user ID or password", f"it does not know user {user!r} with this password: check {USER}, {PASSWORD}"),
        ("user name is empty", f"it wants a password: set {USER} and {PASSWORD}"),
        (
            "permission denied",
            f"user {user!r} ({USER}) may not touch these keys: grant its role readwrite on them (stackpad node roles)",
        ),
        ("database space exceeded", "its quota is used up: compact and defragment it, then disarm the alarm"),
        ("no space", "its disk or quota is full: make room, then disarm the alarm"),
        ("corrupt", "a member found its data corrupt: replace that member"),
        ("no leader", "most of its members must run and reach each other"),
        ("timed out", "most of its members must run and reach each other, on disks that are not overloaded"),
        ("request is too large", "a record is larger than etcd takes (--max-request-bytes)"),
        ("larger than max", "a record is larger than etcd takes (--max-request-bytes)"),
        ("too many operations", "a transaction has more operations than etcd takes (--max-txn-ops)"),
    ):
        if part in said:
            return f"store {url} refused ({said}): {remedy}"
    return f"store {url} refused: {said}"


def _tls(url: str, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        if "ostname mismatch" in why or "IP address mismatch" in why:
            return f"the certificate of {url} is for another name ({why}); name the host in {ENDPOINTS} as it does"
        if "expired" in why or "not yet valid" in why:
            return f"the certificate of {url} is not valid now ({why}); renew it, or set this node's clock"
        return f"the certificate of {url} is not trusted ({why}); set {CA} to the file of the authority that signed it"
    reason = error.reason or str(error)
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"{url} wants a client certificate ({reason}); set {CERTIFICATE} and {KEY}"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"{url} refuses our client certificate ({reason}); check what {CERTIFICATE} and {KEY} name"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return f"{url} does not speak TLS ({reason}); write http:// in {ENDPOINTS}"
    return f"no TLS connection to {url} ({reason}); check {ENDPOINTS}, {CA}, {CERTIFICATE} and {KEY}"


def _ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    """The error of TLS that is behind another one."""
    seen = 0
    while error is not None and seen < 8:
        # aiohttp's own inherit from ssl's without having what these hold, so look inside first.
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        if inner is None and isinstance(error, ssl.SSLError):
            return error
        error, seen = (inner or error.__cause__ or error.__context__), seen + 1
    return None
