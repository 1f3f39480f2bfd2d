"""What this process and all that it starts may do: everything that is not needed is given up before anything else.

An engine gives each plugin Docker's default capabilities, and a plugin's ``config.json`` can only add to them. So the
plugin takes them off itself, in the way that capabilities(7) describes for a process and its descendants: no new
privileges, nothing in the bounding set but what is needed, and ``SECBIT_NOROOT``, by which being root gives a program
nothing. What is needed goes to children by the ambient set, to those that run on by way of :func:`holding`.

Only the standard library is used here, for it comes before everything that takes time. The numbers are those of
``linux/capability.h``, ``linux/prctl.h`` and ``linux/securebits.h``.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAMES: Final = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
    "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip

NEEDED: Final = ("NET_BIND_SERVICE", "NET_ADMIN", "NET_RAW")
"""What stays: for published ports and DNS; for links, rules, settings and the tunnel; for echoes between nodes, and the
sockets by which iptables' old back end talks to the kernel."""

_SECUREBITS_GET, _SECUREBITS_SET, _NO_NEW_PRIVS = 27, 28, 38
_BOUNDING_READ, _BOUNDING_DROP = 23, 24
_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR = 47, 2, 4
_NOROOT = 1 << 0 | 1 << 1
"""``SECBIT_NOROOT``, and locked."""

_VERSION = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def holding(*names: str) -> tuple[str, ...]:
    """The words of setpriv(1) before a program that is to have these of :data:`NEEDED`, and no others.

    The others are named: an older setpriv refuses to take "all" off where the kernel knows more than it.
    """
    off = ",".join(f"-{name.lower()}" for name in NEEDED if name not in names)
    return "setpriv", f"--ambient-caps={off}", f"--inh-caps={off}"


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the kernel says of a process: its capabilities in each set, by name, and whether exec can give it more."""

    effective: tuple[str, ...]
    permitted: tuple[str, ...]
    inheritable: tuple[str, ...]
    bounding: tuple[str, ...]
    ambient: tuple[str, ...]
    no_new_privs: bool

    @classmethod
    def of(cls, status: str) -> Privileges:
        """Read from the text of ``/proc/PID/status`` (proc(5)); pure. What it does not say counts as empty."""
        found = dict(re.findall(r"^(Cap\w+|NoNewPrivs):\s*([0-9a-f]+)$", status, re.MULTILINE))
        effective, permitted, inheritable, bounding, ambient = (
            _names(int(found.get(f"Cap{which}", "0"), 16)) for which in ("Eff", "Prm", "Inh", "Bnd", "Amb")
        )
        return cls(effective, permitted, inheritable, bounding, ambient, found.get("NoNewPrivs") == "1")


def own() -> Privileges:
    """Those of the thread that asks, which here are those of all."""
    return Privileges.of(Path("/proc/thread-self/status").read_text())


def give_up() -> list[str]:
    """Keep :data:`NEEDED` of what is there, for this process and its descendants; to be called while there is one thread.

    Returns which steps the kernel refused, and why: each is tried, and stands for itself. Without ``CAP_SETPCAP`` the
    bounding set stays; children have no more than we do all the same, since there are no new privileges.
    """
    refused: list[str] = []

    def step(what: str, how: Callable[..., object], *arguments: int) -> bool:
        try:
            how(*arguments)
        except OSError as error:
            refused.append(f"{what}: {error.strerror}")
            return False
        return True

    step("no new privileges", _prctl, _NO_NEW_PRIVS, 1)
    permitted = _permitted()
    kept = permitted & sum(1 << _NAMES.index(name) for name in NEEDED)
    # Children first: without the ambient set they would have nothing once being root gives nothing.
    handed_on = step("inheritable set", _capset, permitted, kept) and step("ambient set", _hand_on, kept)
    step("bounding set", _bound, kept)
    if handed_on:
        step("root without capabilities", _be_nobody_special)
    step("permitted set", _capset, kept, kept)
    return refused


def _hand_on(kept: int) -> None:
    _prctl(_AMBIENT, _AMBIENT_CLEAR)
    for number in _numbers(kept):
        _prctl(_AMBIENT, _AMBIENT_RAISE, number)


def _bound(kept: int) -> None:
    for number in range(64):
        try:
            there = _prctl(_BOUNDING_READ, number)
        except OSError:
            return  # the kernel knows no more
        if there and not kept >> number & 1:
            _prctl(_BOUNDING_DROP, number)


def _be_nobody_special() -> None:
    before = _prctl(_SECUREBITS_GET)
    if before & _NOROOT != _NOROOT:
        _prctl(_SECUREBITS_SET, before | _NOROOT)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Half of each set, as capset(2) has them: 32 bits each."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _permitted() -> int:
    halves = (_Sets * 2)()
    _checked(_libc.capget(ctypes.byref(_Header(_VERSION, 0)), halves))
    return int(halves[0].permitted) | int(halves[1].permitted) << 32


def _capset(permitted: int, inheritable: int) -> None:
    """Also the effective set, which is the permitted one."""
    low, high = ((permitted >> shift & 0xFFFFFFFF, inheritable >> shift & 0xFFFFFFFF) for shift in (0, 32))
    halves = (_Sets * 2)(*(_Sets(may, may, hands_on) for may, hands_on in (low, high)))
    _checked(_libc.capset(ctypes.byref(_Header(_VERSION, 0)), halves))


def _prctl(option: int, *arguments: int) -> int:
    words = [*arguments, 0, 0, 0, 0][:4]
    return _checked(_libc.prctl(option, *map(ctypes.c_ulong, words)))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _numbers(mask: int) -> list[int]:
    return [number for number in range(64) if mask >> number & 1]


def _names(mask: int) -> tuple[str, ...]:
    return tuple(f"CAP_{_NAMES[number] if number < len(_NAMES) else number}" for number in _numbers(mask))
