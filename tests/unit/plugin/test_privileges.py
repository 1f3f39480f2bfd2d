"""What the kernel says of a process's privileges, read."""

from __future__ import annotations

import pytest

from plugin.privileges import Privileges, holding

DOCKERS = """\
Name:\tpython
CapInh:\t0000000000000000
CapPrm:\t00000000a80435fb
CapEff:\t00000000a80435fb
CapBnd:\t00000000a80435fb
CapAmb:\t0000000000000000
NoNewPrivs:\t0
Seccomp:\t0
"""
"""A managed plugin's, with Docker's default capabilities and CAP_NET_ADMIN."""


def test_what_an_engine_gives_to_a_plugin() -> None:
    found = Privileges.of(DOCKERS)
    assert set(found.permitted) == {
        "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
        "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD",
        "CAP_AUDIT_WRITE", "CAP_SETFCAP",
    }  # fmt: skip
    assert found.effective == found.permitted == found.bounding
    assert found.inheritable == found.ambient == ()
    assert not found.no_new_privs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CapBnd:\t0000000000003400", ("CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW")),
        ("CapBnd:\t0000010000000000", ("CAP_CHECKPOINT_RESTORE",)),
        ("CapBnd:\t8000020000000000", ("CAP_41", "CAP_63")),
        ("CapBnd:\tx", ()),
        ("", ()),
    ],
)
def test_each_capability_has_a_name(line: str, expected: tuple[str, ...]) -> None:
    found = Privileges.of(f"Name:\tpython\n{line}\n")
    assert (found.bounding, found.permitted, found.no_new_privs) == (expected, (), False)


def test_no_new_privileges() -> None:
    assert Privileges.of("NoNewPrivs:\t1\n").no_new_privs


@pytest.mark.parametrize(
    ("kept", "off"),
    [
        ((), "-net_bind_service,-net_admin,-net_raw"),
        (("NET_ADMIN", "NET_BIND_SERVICE"), "-net_raw"),
    ],
)
def test_what_a_program_is_not_to_have_is_named(kept: tuple[str, ...], off: str) -> None:
    assert holding(*kept) == ("setpriv", f"--ambient-caps={off}", f"--inh-caps={off}")
