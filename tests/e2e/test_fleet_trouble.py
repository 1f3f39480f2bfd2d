"""A cluster in trouble, and what the command line says of it: no plugin, a store without a disk, a way that stops."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial

import pytest

from plugin.store.loop import SETTLE
from stackpad import records
from tests.e2e.life import ENVIRONMENT, Life
from tests.e2e.scene import INTERNET
from tests.e2e.workbench import Workbench, eventually, everything, hold
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.plan import INTERNET_NAME
from tests.testbed.shell import ROOT, run

OWN = ("--ipam-driver", "stackpad")


def finds_outside(bench: Workbench, container: str) -> bool:
    """Whether a container resolves a name of the outside; each server that does not answer costs it seconds."""
    status, said = bench.node.inside(container, "getent", "ahostsv4", INTERNET_NAME, timeout=90)
    return status == 0 and INTERNET in said


@pytest.mark.parametrize("number", [1, 2])
def test_names_of_the_outside_do_not_need_the_plugin(life: Life, number: int) -> None:
    """From our networks, ``docker0``, a network of Docker's own and the node itself, with and without the plugin."""
    life.pair()
    bench, ours = life.bench[number], {1: "one", 2: "two"}[number]
    other = {1: "two", 2: "one"}[number]
    bench.network("dockers-own", driver="bridge")
    bench.start("default", "bridge")
    bench.start("own", "dockers-own")

    def all_find() -> list[str]:
        lost = [name for name in (ours, "default", "own") if not finds_outside(bench, name)]
        on_node = bench.exec("getent", "ahostsv4", INTERNET_NAME, check=False)
        return [*lost, *([] if INTERNET in on_node.stdout else ["the node"])]

    assert all_find() == []
    assert not life.finds(number, "default", other), "names of ours are for containers of ours"
    assert not life.finds(number, "own", other)
    bench.docker("plugin", "disable", "--force", PLUGIN)
    try:
        assert all_find() == []
        assert bench.node.inside("own", "getent", "hosts", "default")[0] != 0
    finally:
        bench.docker("plugin", "enable", PLUGIN)
        bench.wait_plugin()
    assert all_find() == []
    eventually(lambda: life.finds(number, ours, other), "the other's name to be back", 90)


def goes_on(life: Life, word: str) -> None:
    """Networks in a node's own block, and containers in them, on the node of the store and on another one."""
    for number in (1, 2):
        life.bench[number].network(f"{word}-{number}", *OWN)
        address = life.bench[number].serve(f"{word}{number}", f"{word}-{number}")
        life.bench[number].start(f"{word}-asks{number}", f"{word}-{number}")
        assert life.bench[number].reaches(f"{word}-asks{number}", *everything(address))


def store_says(life: Life) -> str:
    """What ``stackpad status`` says of the store on the node that runs it."""
    done = life.bench[1].node.stackpad("status", "--json", check=False)
    return "; ".join(json.loads(done.stdout)["cluster"]["problems"]) if done.stdout else ""


def doctor(life: Life) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status and findings by check on the first node, in its own namespaces."""
    node = life.bench[1].node
    if node.spec.engine != "debian12":
        pytest.skip("the first node's file system has no Python of ours: its engine is not the machine's own")
    done = node.exec("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "stackpad.cli", "doctor", "--json", check=False)
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)}


def damaged(life: Life) -> Callable[[], None]:
    """The store's files with something else in them; returns what mends that, as the message says."""
    data = life.bench[1].node.root / "var/lib/stackpad/etcd"
    (etcd,) = life.pids(1, "etcd")
    os.kill(etcd, signal.SIGSTOP)
    for file in [*data.rglob("*.wal"), *data.rglob("db")]:
        file.write_bytes(os.urandom(len(file.read_bytes())))
    os.kill(etcd, signal.SIGKILL)

    def mend() -> None:
        data.rename(data.with_name("etcd-damaged"))
        eventually(lambda: life.connected(1), "the store to begin anew", 120)
        shutil.rmtree(data.with_name("etcd-damaged"))

    return mend


def full(life: Life) -> Callable[[], None]:
    """A disk without room below the store, as the plugin sees it; returns what makes room."""
    enter = ["nsenter", f"--target={life.bench[1].node.plugin_pid()}", "--mount", "--pid"]
    place = "/host/var/lib/stackpad/etcd"
    (etcd,) = life.pids(1, "etcd")
    run(*enter, "mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "full", place)
    os.kill(etcd, signal.SIGKILL)

    def mend() -> None:
        for pid in life.pids(1, "etcd"):
            os.kill(pid, signal.SIGKILL)
        run(*enter, "umount", "-l", place)

    return mend


@pytest.mark.parametrize(("how", "words"), [(damaged, "move that directory away"), (full, "is full: make room")])
def test_a_store_that_cannot_use_its_disk(life: Life, how: Callable[[Life], Callable[[], None]], words: str) -> None:
    """Docker goes on beside it; ``status`` and ``doctor`` say what it is and what to do; doing that brings all back."""
    _, second = life.pair()
    mend = how(life)
    try:
        eventually(lambda: words in store_says(life), f"the reason to be told: {words}", 90)
        goes_on(life, how.__name__)
        assert life.meet(1, "one", second), "what runs goes on"
        assert life.finds(1, "one", "two")
        status, found = doctor(life)
        assert status == 1
        assert found["store"]["level"] == "problem"
        assert words in found["cluster"]["detail"], found["cluster"]
    finally:
        mend()
    life.all_connected()
    eventually(lambda: set(life.nodes().values()) == {"alive"} and len(life.nodes()) == 3, "all nodes to be there", 90)
    life.bench[2].docker("rm", "--force", "two")
    eventually(lambda: not life.finds(1, "one", "two"), "news to pass again", 90)


def test_ranges_deleted_from_the_store_are_written_again(life: Life) -> None:
    """While a node cannot say so: its address in the tunnel, by which it will, is in one of them."""
    _, second = life.pair()
    store = f"unix://{life.bench[1].node.root}/run/stackpad/etcd/client:0"
    ranges = ["--prefix", records.RANGES, "--keys-only"]

    def there() -> list[str]:
        return run("etcdctl", "--endpoints", store, "get", *ranges).stdout.split()

    before = there()
    plugin = life.bench[2].node.plugin_pid()
    os.kill(plugin, signal.SIGSTOP)
    try:
        run("etcdctl", "--endpoints", store, "del", *ranges[:2])
        eventually(there, "the first node's to be back", 30)
        hold(SETTLE + 3)
        assert life.meet(1, "one", second), "what runs goes on"
        net = ipaddress.ip_network(f"{second}/26", strict=False)
        done = life.bench[1].node.try_docker("network", "create", "-d", "stackpad", "--subnet", str(net), "thief")
        assert done.returncode != 0, "what is another node's is not free"
        assert f"range {net} overlaps" in done.stderr
    finally:
        os.kill(plugin, signal.SIGCONT)
    eventually(
        lambda: run("etcdctl", "--endpoints", store, "get", *ranges).stdout.split() == before, "all to be back", 30
    )
    life.all_connected()


def steps(life: Life, number: int, who: str, whom: str) -> tuple[int, str, dict[str, str]]:
    """What ``stackpad explain`` ends with, its last step, and what each says."""
    done = life.bench[number].node.stackpad("explain", who, whom, "--json", check=False)
    rows = json.loads(done.stdout)
    return done.returncode, rows[-1]["name"], {row["name"]: f"{row['text']}; {row['remedy']}" for row in rows}


def test_what_the_command_line_says_of_a_cluster_that_is_well(life: Life) -> None:
    """The doctor finds nothing, all nodes list the same names, and a way is explained to its end or to where it stops."""
    first, second = life.pair()
    life.bench[2].network("shop-staging", *OWN)
    life.bench[2].start("stage", "shop-staging")
    rows = []
    for number in life.bench:
        said = ["services", ENVIRONMENT, "--json"]
        ask = partial(life.bench[number].node.stackpad, *said, check=False)
        eventually(lambda: "two" in ask().stdout and "one" in ask().stdout, "both names", 30)  # noqa: B023
        rows.append({(row["container"], *sorted(row["addresses"])) for row in json.loads(ask().stdout)})
    assert rows[0] == rows[1] == rows[2] == {("one", first), ("two", second)}
    eventually(lambda: steps(life, 1, "one", "two")[:2] == (0, "to"), "the way to be open", 30)
    for whom in ("two", second):
        status, last, texts = steps(life, 1, "one", whom)
        assert (status, last) == (0, "to"), texts
        assert {"sender", "admitted", "tunnel", "receiver"} < texts.keys()
    eventually(lambda: steps(life, 1, "one", "stage")[:2] == (1, "environment"), "the other's to be known", 30)
    assert "shop-staging" in steps(life, 1, "one", "stage")[2]["environment"]
    assert steps(life, 1, "one", "nobody")[:2] == (1, "name")
    status, found = doctor(life)
    assert [row for row in found.values() if row["level"] == "problem"] == []
    assert status == 0


def test_a_way_is_explained_where_the_tunnel_is_stopped(life: Life) -> None:
    """Between the second and the third node only, so that both are alive: the store is on the first."""
    life.pair()
    life.bench[3].network(ENVIRONMENT)
    life.bench[3].start("three", ENVIRONMENT)
    eventually(lambda: steps(life, 3, "three", "two")[:2] == (0, "to"), "the way to be open", 60)
    second = life.bed.nodes[1]
    rules = "add table inet shut; add chain inet shut in { type filter hook input priority -300; }"
    rules += f"; add rule inet shut in ip saddr {second.address} udp dport 51820 drop"
    rules += f"; add rule inet shut in ip6 saddr {second.address6} udp dport 51820 drop"
    life.bench[3].exec("nft", rules)
    try:
        eventually(lambda: steps(life, 3, "three", "two")[:2] == (1, "tunnel"), "the tunnel to be named", 120)
        assert "UDP port open" in steps(life, 3, "three", "two")[2]["tunnel"]
    finally:
        life.bench[3].exec("nft", "delete", "table", "inet", "shut")
    eventually(lambda: steps(life, 3, "three", "two")[:2] == (0, "to"), "the way to be open again", 120)


def test_a_way_is_explained_where_the_receiver_does_not_know_of_it(life: Life) -> None:
    """A network made while its node had no store: the others have not heard of it, and let nothing in."""
    life.bench[1].network("late-production", *OWN)
    life.bench[3].network(ENVIRONMENT)
    there = life.bench[1].serve("early", "late-production")
    known = life.bench[3].node.stackpad
    eventually(lambda: "early" in known("services", "--json").stdout, "the news of the other", 30)
    rules = "add table inet shut; add chain inet shut out { type filter hook output priority -300; }"
    life.bench[3].exec("nft", f'{rules}; add rule inet shut out oifname "sp-wg" tcp dport 2379 drop')
    try:
        eventually(lambda: not life.connected(3), "the store to be missed", 120)
        life.bench[3].network("late-production", *OWN)
        life.bench[3].start("late", "late-production")
        eventually(lambda: steps(life, 3, "late", "early")[:2] == (1, "receiver"), "the receiver to be named", 30)
        assert "has not published" in steps(life, 3, "late", "early")[2]["receiver"]
        assert life.bench[3].cut_off("late", *everything(there)), "and so it is"
    finally:
        life.bench[3].exec("nft", "delete", "table", "inet", "shut")
    eventually(lambda: steps(life, 3, "late", "early")[:2] == (0, "to"), "the way to be open", 120)
    assert life.meet(3, "late", there)


def test_a_node_joins_as_its_plugin_is_installed(life: Life) -> None:
    """A new plugin with an empty disk and a token among its settings; Docker is told afterwards, by ``configure``."""
    bench = life.bench[3]
    bench.node.stackpad("node", "leave", "--yes", configures=True)
    bench.docker("plugin", "rm", "--force", PLUGIN)
    shutil.rmtree(bench.node.root / "var/lib/stackpad")
    bench.docker("plugin", "create", PLUGIN, images.build(only_plugin=True).plugin)
    bench.docker("plugin", "set", PLUGIN, f"JOIN={life.token()}")
    bench.docker("plugin", "enable", PLUGIN)
    bench.wait_plugin()
    eventually(lambda: life.nodes().get(life.name(3)) == "alive", "the node to join", 60)
    bench.node.stackpad("node", "configure", "--yes", configures=True)
    bench.node.restart_engine()
    bench.wait_plugin()
    _, second = life.pair()
    bench.network(ENVIRONMENT)
    bench.start("three", ENVIRONMENT)
    eventually(lambda: life.finds(3, "three", "two"), "the names of the others", 60)
    assert life.meet(3, "three", second)
