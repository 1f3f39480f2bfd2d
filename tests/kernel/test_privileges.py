"""Giving privileges up, on a real kernel: what is gone for good, in whom, and what still can be done."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from plugin.privileges import Privileges
from tests import rights
from tests.fuzz.process import ADMIN, plugin
from tests.netns import eventually
from tests.rights import KEPT, NONE, ONLY, TUNNEL
from tests.testbed.shell import ROOT

WITHOUT_SETPCAP = ("setpriv", "--bounding-set=-setpcap", "--")
NOT_WITHOUT_IT = ["bounding set: Operation not permitted", "root without capabilities: Operation not permitted"]
REFUSED = "privileges could not be given up"

GIVEN_UP = """
import json, os, subprocess, sys
from plugin import privileges
if len(sys.argv) > 1:
    os.setgroups([]); os.setuid(int(sys.argv[1]))
refused = privileges.give_up()
def status(*before):
    return subprocess.run([*before, "cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
two = privileges.holding("NET_ADMIN", "NET_BIND_SERVICE")
print(json.dumps([refused, open("/proc/self/status").read(), status(), status(*two), status(*privileges.holding())]))
"""

ATTEMPTS = """
import json, os, socket, subprocess, sys
from plugin import privileges
place = sys.argv[1]
assert privileges.give_up() == []
def told(what, *arguments):
    try:
        what(*arguments)
        return "done"
    except OSError as error:
        return os.strerror(error.errno)
def ran(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    return "done" if done.returncode == 0 else done.stderr
def echo_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
def bound():
    socket.create_server(("127.0.0.1", 53)).close()
def switched():
    with open("/proc/sys/net/ipv4/ip_forward", "w") as setting:
        setting.write("1")
print(json.dumps({
    "echo": told(echo_socket),
    "port": told(bound),
    "setting": told(switched),
    "link": ran("ip", "link", "add", "sp-try", "type", "bridge"),
    "rules": ran("nft", "add", "table", "inet", "stackpad"),
    "iptables": ran("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"),
    "old iptables": ran("iptables-legacy", "-S"),
    "flows": ran("conntrack", "-L"),
    "read": told(open, place),
    "own": told(os.chown, place, 0, 0),
    "node": told(os.mknod, place + ".node", 0o20600, 0x103),
    "user": told(os.setuid, 65534),
    "root": told(os.chroot, "/"),
    "name": told(socket.sethostname, "x"),
}))
"""

TRUST = """
import pathlib, sys
from plugin import privileges
from stackpad.errors import Unavailable
from stackpad.etcd import Tls
from stackpad.etcd.endpoints import Trust
assert privileges.give_up() == []
ca, key = map(pathlib.Path, sys.argv[1:])
try:
    Trust(Tls(ca=ca, certificate=ca, key=key)).context()
except Unavailable as error:
    print(error)
"""

STATE = """
import pathlib, sys
from plugin import privileges
from plugin.state import State
from stackpad.errors import Unavailable
assert privileges.give_up() == []
try:
    State(pathlib.Path(sys.argv[1]))
    print("opened")
except Unavailable as error:
    print(error)
"""


def run(script: str, *arguments: str, before: Iterable[str] = ()) -> str:
    words = [*before, sys.executable, "-c", script, *arguments]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def given_up(*arguments: str, before: Iterable[str] = ()) -> tuple[list[str], list[Privileges]]:
    """What was refused; what the process has then, and three children: any, one that is to have two, one with none."""
    refused, *texts = json.loads(run(GIVEN_UP, *arguments, before=before))
    return refused, [Privileges.of(text) for text in texts]


def test_three_capabilities_are_left_and_children_have_those_or_fewer(netns: None) -> None:
    assert given_up() == ([], [ONLY, ONLY, TUNNEL, NONE])


def test_twice_is_once(netns: None) -> None:
    refused, *texts = json.loads(run(GIVEN_UP.replace("refused =", "privileges.give_up()\nrefused =")))
    assert (refused, [Privileges.of(text) for text in texts]) == ([], [ONLY, ONLY, TUNNEL, NONE])


def test_without_the_right_to_give_up_the_bounding_set_no_more_is_left_to_anybody(netns: None) -> None:
    """As where somebody has taken ``CAP_SETPCAP`` away before us: being root gives children something, but not more."""
    refused, found = given_up(before=WITHOUT_SETPCAP)
    assert refused == NOT_WITHOUT_IT
    for one in found:
        assert one.permitted == one.effective == KEPT
        assert one.no_new_privs
        assert "CAP_CHOWN" in one.bounding
        assert "CAP_SETPCAP" not in one.bounding


def test_who_has_nothing_to_give_up_goes_on(netns: None) -> None:
    refused, found = given_up("65534")
    assert refused == NOT_WITHOUT_IT
    assert {one.permitted for one in found} == {()}
    assert all(one.no_new_privs for one in found)


def test_what_is_needed_can_be_done_and_other_things_cannot(netns: None, tmp_path: Path) -> None:
    place = tmp_path / "secret"
    place.write_text("x")
    place.chmod(0o600)
    subprocess.run(["chown", "65534:65534", place], check=True)
    found = json.loads(run(ATTEMPTS, str(place)))
    if "Table does not exist" in found["old iptables"]:
        found["old iptables"] = "done"  # the kernel has not got its tables
    assert found == {
        **dict.fromkeys(("echo", "port", "setting", "link", "rules", "iptables", "old iptables", "flows"), "done"),
        "read": "Permission denied",
        **dict.fromkeys(("own", "node", "user", "root", "name"), "Operation not permitted"),
    }


@pytest.mark.skipif(shutil.which("etcd") is None, reason="missing: etcd")
async def test_the_whole_plugin_has_them_in_all_its_threads_its_tunnel_two_and_its_store_none(tmp_path: Path) -> None:
    with plugin(tmp_path, WIREGUARD="wireguard-go", LOG_LEVEL="info") as process:
        pid = process.process.pid
        async with process.session(ADMIN) as admin, asyncio.TaskGroup() as tasks:
            # Without an engine the answer takes its time, and nothing here needs it.
            begun = tasks.create_task(begin(admin))
            await eventually(
                lambda: rights.children(pid) == {"etcd": {NONE}, "wireguard-go": {TUNNEL}}, "store and tunnel"
            )
            begun.cancel()
            assert rights.threads(pid) > 1
            assert rights.of(pid) == {ONLY}
            async with admin.get("http://plugin/status") as answer:
                told = msgspec.convert(json.loads(await answer.read())["privileges"], Privileges)
        assert told == ONLY
    assert '"capabilities": ["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_NET_RAW"]' in process.words()
    assert REFUSED not in process.words()


async def test_what_cannot_be_given_up_is_told_and_the_plugin_goes_on(tmp_path: Path) -> None:
    with plugin(tmp_path, before=WITHOUT_SETPCAP) as process:
        async with process.session(ADMIN) as admin, admin.get("http://plugin/status") as answer:
            told = msgspec.convert(json.loads(await answer.read())["privileges"], Privileges)
    assert told.permitted == KEPT
    assert "CAP_CHOWN" in told.bounding
    assert REFUSED in process.words()
    assert "bounding set: Operation not permitted" in process.words()


def test_a_key_that_is_another_users_is_told_with_what_to_do(netns: None, tmp_path: Path) -> None:
    """The plugin has given up reading everybody's files."""
    directory = tmp_path / "etcd"
    directory.mkdir(mode=0o700)
    ca, key = tmp_path / "ca.pem", directory / "client.key"
    for path in (ca, key):
        path.write_text("x")
        path.chmod(0o600)
    subprocess.run(["chown", "65534:65534", directory], check=True)
    told = f"{key}, which STORE_KEY names, is closed to the plugin: make it and the directories above it root's\n"
    assert run(TRUST, str(ca), str(key)) == told
    subprocess.run(["chown", "65534:65534", key], check=True)
    directory.chmod(0o755)
    assert run(TRUST, str(ca), str(key)) == told
    key.unlink()
    assert run(TRUST, str(ca), str(key)) == f"there is no file {key}, which STORE_KEY names\n"


def test_a_state_file_that_is_another_users_is_told_with_what_to_do(netns: None, tmp_path: Path) -> None:
    state = tmp_path / "net.db"
    state.touch(mode=0o600)
    subprocess.run(["chown", "65534:65534", state], check=True)
    assert run(STATE, str(state)).startswith(f"the state file {state} cannot be used: ")
    assert "make it root's" in run(STATE, str(state))
    subprocess.run(["chown", "0:0", state], check=True)
    assert run(STATE, str(state)) == "opened\n"


async def begin(admin: aiohttp.ClientSession) -> None:
    """Begin a cluster."""
    async with admin.post("http://plugin/node/init", json={"name": "first"}) as answer:
        assert answer.status in {200, 503}, await answer.read()
