"""What somebody does to the tunnel's link, and that it does not stay so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from plugin.kernel.monitor import Monitor
from plugin.tunnel import loop as meshloop
from plugin.wireguard import userspace
from plugin.wireguard.backend import Backend
from plugin.wireguard.userspace import WireGuardGo
from stackpad.errors import Unavailable
from tests.kernel.test_limits import no_more_files
from tests.mesh.conftest import DEVICE, Other
from tests.mesh.test_calling import OURS, THEIRS, looping
from tests.mesh.test_wireguard import WIRE, bring, device, peer, reaches, shown
from tests.netns import eventually, ip, run


def said(*command: str) -> str:
    """What a command prints, if only nothing."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def itself() -> bool:
    """Whether the link is up and of a kind of WireGuard's, and the distribution's tool finds our key behind it."""
    link = said("ip", "-o", "-d", "link", "show", DEVICE)
    wanted = "UP" in link.partition(">")[0] and "bridge" not in link
    return wanted and said("wg", "show", DEVICE, "public-key").strip() == OURS


def usurp(*before: str) -> None:
    """Have a bridge by the device's name, after other commands, in one go: nobody comes in between."""
    run("ip", "-batch", "-", script="\n".join([*before, f"link add {DEVICE} type bridge", f"link set {DEVICE} up"]))


async def test_a_link_that_was_set_down_is_set_up_again(backend: Backend, other: Other) -> None:
    wanted = device(peer(other.public, "10.192.64.0/18", endpoint=WIRE))
    await bring(backend, wanted)
    ip("link", "set", DEVICE, "down")
    assert await backend.ensure(DEVICE, 1420), "its sessions are gone as with a new one"
    assert itself()
    assert not await backend.ensure(DEVICE, 1420)
    assert other.public in shown("peers"), "its peers are not"
    # So does a process that has not made it.
    ip("link", "set", DEVICE, "down")
    again: Backend = type(backend)()
    assert await again.ensure(DEVICE, 1420)
    assert itself()
    await again.close()


async def test_a_link_of_another_kind_is_replaced(backend: Backend) -> None:
    """Whether it was there first or took the place of ours; what goes to the other nodes would leave by it in clear."""
    usurp()
    assert await backend.ensure(DEVICE, 1420)
    await bring(backend, device())
    assert itself()
    # A rename is what leaves an implementation running, with its socket.
    usurp(f"link set {DEVICE} down", f"link set {DEVICE} name away")
    assert await backend.ensure(DEVICE, 1420)
    await bring(backend, device())
    assert itself()


async def test_a_link_that_cannot_be_removed_is_told(backend: Backend) -> None:
    """As a network card could be called; here it is the loopback."""
    ip("link", "set", "lo", "down")
    ip("link", "set", "lo", "name", DEVICE)
    with pytest.raises(Unavailable, match=f"is called {DEVICE} and cannot be removed; give it another name"):
        await backend.ensure(DEVICE, 1420)
    ip("link", "set", DEVICE, "name", "lo")
    assert await backend.ensure(DEVICE, 1420)


@pytest.mark.parametrize("damage", ["set down", "deleted", "replaced"])
async def test_the_loop_mends_it_with_its_address_and_its_routes(
    backend: Backend, other: Other, tmp_path: Path, damage: str
) -> None:
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other, "192.0.2.2:51900") as loop:
        assert await reaches(THEIRS)
        if damage == "replaced":
            usurp(f"link del {DEVICE}")
        elif damage == "deleted":
            ip("link", "del", DEVICE)
        else:
            ip("link", "set", DEVICE, "down")
        await eventually(itself, "the device to be itself again")
        await eventually(lambda: DEVICE in said("ip", "route", "show", "10.192.64.0/18"), "its route")
        await loop.wait_settled()
        assert await reaches(THEIRS)


async def test_the_loop_goes_on_when_more_files_may_be_opened(backend: Backend, other: Other, tmp_path: Path) -> None:
    """And meanwhile the tunnel stays as it is."""
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other, "192.0.2.2:51900") as loop:
        assert await reaches(THEIRS)
        index = ip("-o", "link", "show", DEVICE).partition(":")[0]
        with no_more_files():
            await eventually(lambda: "Too many open files" in loop.problem, "it to be told")
        await eventually(lambda: not loop.problem, "it to be over")
        await loop.wait_settled()
        assert await reaches(THEIRS)
        assert ip("-o", "link", "show", DEVICE).partition(":")[0] == index


async def test_a_peer_that_somebody_removes_comes_back(backend: Backend, other: Other, tmp_path: Path) -> None:
    other.admit(OURS, "10.192.0.0/18")
    async with looping(tmp_path, backend, other, "192.0.2.2:51900"):
        assert await reaches(THEIRS)
        run("wg", "set", DEVICE, "peer", other.public, "remove")
        await eventually(lambda: other.public in shown("endpoints"), "the peer")
        assert await reaches(THEIRS)


async def test_a_route_that_somebody_deletes_comes_back_at_once(
    backend: Backend, other: Other, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says so, and the loop need not come to compare them all."""
    monkeypatch.setattr(meshloop, "CHECK", 1e6)
    async with looping(tmp_path, backend, other, "192.0.2.2:51900") as loop:
        with Monitor(lambda hint: None, lambda name: False, loop.route_gone):
            ip("route", "del", "10.192.64.0/18", "dev", DEVICE)
            await eventually(lambda: DEVICE in said("ip", "route", "show", "10.192.64.0/18"), "its route")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o644, "is no wireguard-go"),
        (0o755, "ended at once with status 127"),
        (0, "is no wireguard-go"),
    ],
)
async def test_a_program_that_cannot_be_started_is_told(
    netns: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, said: str
) -> None:
    """Whatever the system says of it ends nothing but this try."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("missing: /dev/net/tun")
    if mode:
        (tmp_path / "wireguard-go").write_text("#!/nowhere\n")
        (tmp_path / "wireguard-go").chmod(mode)
    (tmp_path / "setpriv").symlink_to(shutil.which("setpriv") or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=said):
        await WireGuardGo().ensure(DEVICE, 1420)


async def test_a_place_for_the_socket_that_cannot_be_made_is_told(
    netns: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("missing: /dev/net/tun")
    (tmp_path / "run").write_text("")
    monkeypatch.setattr(userspace, "_SOCKETS", tmp_path / "run" / "wireguard")
    with pytest.raises(Unavailable, match=r"run/wireguard.* cannot be made: Not a directory; make it a directory"):
        await WireGuardGo().ensure(DEVICE, 1420)
