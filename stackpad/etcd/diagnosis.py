"""Why an etcd process ended, from the last that it wrote. Pure.

Etcd writes JSON lines (zap) while all is well, and Go's own text when it panics; the wording was taken from etcd 3.4.23
and 3.5.30 with the faults provoked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from stackpad import jsontext

_GRAVE: Final = frozenset({"error", "dpanic", "panic", "fatal"})


class LogLine(msgspec.Struct, frozen=True):
    """One line of etcd's log, with what is common to all of them."""

    level: str = ""
    msg: str = ""
    error: str = ""

    @property
    def grave(self) -> bool:
        """Whether an operator should see it."""
        return self.level in _GRAVE

    @property
    def text(self) -> str:
        """What it says."""
        return f"{self.msg}: {self.error}" if self.error else self.msg


def read_line(line: bytes) -> LogLine:
    """From JSON; any other text is the end of a process that writes no log any more."""
    try:
        return jsontext.decode(line, type=LogLine)
    except msgspec.DecodeError:
        return LogLine("panic" if line.startswith((b"panic:", b"fatal error:")) else "", line.decode("utf-8", "replace"))


def why(lines: Sequence[LogLine], status: int, data: str) -> str:
    """The sentence for an operator: what happened and what to do; ``data`` is etcd's data directory.

    ``status`` is the process's, negative for a signal.
    """
    said = "\n".join(line.text for line in lines)
    if match := re.search(r"listen tcp (\S+): bind: address already in use", said):
        return f"another program listens on {match[1]}, where etcd is to; find it with ss -ltnp and stop it"
    if match := re.search(r"listen tcp (\S+): bind: cannot assign requested address", said):
        return f"etcd cannot listen on {match[1]}, since this node does not have that address; check the mesh link"
    for words, sentence in _KNOWN:
        if any(word in said for word in words):
            return sentence.format(data=data)
    last = next((line.text for line in reversed(lines) if line.grave), "")
    if status < 0:
        return f"etcd was ended by signal {-status}; see the kernel's log if that was nobody's wish (out of memory?)"
    if last:
        # Most often it stumbled over its own files, in one of many wordings.
        return f"etcd ended with status {status} ({last[:300]}); {_DAMAGED.format(data=data)}"
    return f"etcd ended with status {status} without a word; look at its log, which is written at level debug"


_DAMAGED: Final = (
    "its data in {data} may be damaged: restore them from a copy, or move that directory away, and the store begins "
    "empty and the nodes write what they know again"
)

_KNOWN: Final[Sequence[tuple[Sequence[str], str]]] = (
    (
        ("no space left on device", "disk quota exceeded"),
        "the disk of {data} is full: make room there; etcd needs some 150 MB to begin with",
    ),
    (("read-only file system",), "{data} is on a file system that is read-only; mount it writable"),
    (("permission denied", "operation not permitted"), "etcd may not write to {data}: it must belong to root, mode 0700"),
    (("not a directory",), "{data} is not a directory; move what is there away"),
    (("flag provided but not defined",), "this etcd does not know our settings; install etcd 3.4 or newer"),
    (("too many open files",), "etcd ran out of file descriptors; raise the limit of the plugin's process"),
    (("holds the file lock",), "another etcd uses {data}; stop it"),
    (
        (
            "crc mismatch",
            "wrong wireType",
            "unexpected EOF",
            "corrupt",
            "invalid database",
            "version mismatch",
            "checksum error",
            "failed to open database",
            "failed to read WAL",
            "snapshot file doesn't exist",
            "illegal tag",
            "file not found",
        ),
        "etcd cannot read its data; " + _DAMAGED,
    ),
)
