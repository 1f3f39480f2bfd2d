"""What processes of the plugin's may do, read from the kernel; and what they should."""

from __future__ import annotations

import contextlib
from pathlib import Path

from plugin.privileges import NEEDED, Privileges

KEPT = tuple(f"CAP_{name}" for name in NEEDED)

ONLY = Privileges(KEPT, KEPT, KEPT, KEPT, KEPT, no_new_privs=True)
"""The plugin, and tools it starts."""

_LINK = ("CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN")
TUNNEL = Privileges(_LINK, _LINK, _LINK, KEPT, _LINK, no_new_privs=True)
"""wireguard-go."""

NONE = Privileges((), (), (), KEPT, (), no_new_privs=True)
"""The embedded etcd."""

_DAC = ("CAP_DAC_OVERRIDE",)
INGRESS = Privileges(_DAC, _DAC, (), _DAC, (), no_new_privs=True)
"""The ingress as ``make install`` starts it."""


VIEW = Privileges((), (), (), (), (), no_new_privs=True)
"""What shows it the engine."""


def of(pid: int) -> set[Privileges]:
    """Those of all threads of a process: each has its own."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found.add(Privileges.of((thread / "status").read_text()))
    return found


def children(pid: int) -> dict[str, set[Privileges]]:
    """Those of the processes it has started, by the names of their programs."""
    found: dict[str, set[Privileges]] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                name = Path(f"/proc/{child}/comm").read_text().strip()
                found.setdefault(name, set()).update(of(child))
    return found


def threads(pid: int) -> int:
    """How many there are."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
