"""What becomes of a cluster over time: joining, addresses, nodes that die or are removed, a store that is away."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest

from stackpad import records
from tests.clock import HOUR
from tests.e2e.life import ENVIRONMENT, Life
from tests.e2e.workbench import Target, Workbench, eventually, everything, hold

ROUND = 20
"""Networks that each node makes at once."""


def test_a_token_is_for_one_node_once_and_for_a_while(life: Life) -> None:
    used, short = life.token(), life.token("--lifetime", "1s")
    life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
    eventually(lambda: life.name(3) not in life.nodes(), "the node to be gone")
    assert life.join(3, used[:-9] + "A" + used[-8:])[0] == 1
    hold(1.5)  # as long as the short one is good for
    status, said = life.join(3, short)
    assert (status, "expired" in said) == (1, True), said
    status, said = life.join(3, used)
    assert status == 0, said
    life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
    status, said = life.join(3, used)
    assert (status, "used already" in said) == (1, True), said
    status, said = life.join(3, life.token())
    assert status == 0, said
    eventually(lambda: life.nodes()[life.name(3)] == "alive", "the node to be back")


def test_a_closed_port_is_told(life: Life) -> None:
    life.bench[3].node.stackpad("node", "leave", "--yes", configures=True)
    token = life.token()
    closed = "add table inet closed; add chain inet closed in { type filter hook input priority -300; }"
    life.bench[1].exec("nft", f"{closed}; add rule inet closed in udp dport 51820 drop")
    try:
        status, said = life.join(3, token)
        assert (status, "no handshake" in said) == (1, True), said
    finally:
        life.bench[1].exec("nft", "delete table inet closed")
    status, said = life.join(3, token)
    assert status == 0, said
    eventually(lambda: life.nodes()[life.name(3)] == "alive", "the node to be back")


@contextlib.contextmanager
def adjustable(bench: Workbench) -> Iterator[Callable[[int], None]]:
    """Have the clock of a plugin so many seconds ahead of the machine's, which all nodes share, from outside of it."""
    (packages,) = (bench.node.home / "data/plugins").glob("*/rootfs/opt/stackpad/lib/python3*/site-packages")
    patch, ahead = packages / "ahead.pth", packages / "ahead"
    inside = f"/{ahead.relative_to(next(one for one in ahead.parents if one.name == 'rootfs'))}"

    def again() -> None:
        os.kill(bench.node.plugin_init(), signal.SIGKILL)
        hold(0.5)
        bench.wait_plugin()

    def put(seconds: int) -> None:
        fresh = ahead.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.rename(ahead)

    put(0)
    # Where there are two names for the place, Python obeys it twice.
    real = "vars(time).setdefault('unset', time.time)"
    patch.write_text(f"import time; time.time = lambda real={real}: real() + float(open({inside!r}).read())\n")
    again()
    try:
        yield put
    finally:
        patch.unlink()
        again()
        ahead.unlink()


def test_a_wrong_clock_is_told(life: Life) -> None:
    bench = life.bench[3]
    bench.node.stackpad("node", "leave", "--yes", configures=True)
    token = life.token()
    with adjustable(bench) as put:
        put(600)
        status, said = life.join(3, token)
    assert (status, "minutes ahead of the cluster" in said) == (1, True), said
    status, said = life.join(3, token)
    assert status == 0, "the token is still good: " + said
    eventually(lambda: life.nodes()[life.name(3)] == "alive", "the node to be back")


def test_a_clock_that_jumps_is_not_noticed(life: Life) -> None:
    """That of the second node's plugin: the others, the engine, WireGuard and the store keep the machine's."""
    bench, (_, two) = life.bench[2], life.pair()
    with adjustable(bench) as put:
        eventually(lambda: life.connected(2) and life.finds(1, "one", "two"), "the node to be back")
        with life.pinging(1, "one", two) as counts:
            for ahead in (HOUR, -HOUR, 0):
                put(ahead)
                expires = json.loads(bench.node.stackpad("node", "token", "--lifetime", "1h", "--json").stdout)["expires"]
                assert abs(expires - HOUR - ahead - time.time()) < HOUR / 4, "it has jumped"
                bench.serve("new", ENVIRONMENT)
                eventually(lambda: life.finds(1, "one", "new"), "the name of a new one")
                assert life.meet(1, "one", two)
                bench.docker("rm", "--force", "new")
                eventually(lambda: not life.finds(1, "one", "new"), "its name to go")
                assert life.connected(2)
                assert set(life.nodes().values()) == {"alive"}
        assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("how", ["pools", "ours", "ours, IPv6", "named"])
def test_many_networks_at_once_never_overlap(life: Life, how: str) -> None:
    """Twenty on each node: by the engines' own address pools, by ours, and in ranges the user names."""
    options = {"ours": ("--ipam-driver", "stackpad"), "ours, IPv6": ("--ipam-driver", "stackpad", "--ipv6")}.get(how, ())

    def create(place: tuple[int, int]) -> list[str]:
        number, index = place
        bench = life.bench[number]
        named = ("--subnet", f"172.29.{number}.{index * 8}/29") if how == "named" else ()
        bench.network(f"many-{number}-{index}", *options, *named)
        config = json.loads(bench.docker("network", "inspect", f"many-{number}-{index}"))[0]["IPAM"]["Config"]
        return [entry["Subnet"] for entry in config]

    places = [(number, index) for index in range(ROUND) for number in life.bench]
    with ThreadPoolExecutor(len(places)) as pool:
        made = [ipaddress.ip_network(net) for nets in pool.map(create, places) for net in nets]
    assert len(made) == len(places) * (2 if "IPv6" in how else 1)
    for one, other in combinations(made, 2):
        assert one.version != other.version or not one.overlaps(other), (one, other)


def test_a_range_that_all_ask_for_at_once_is_one_nodes(life: Life) -> None:
    """Each of twenty ranges by every node: one gets it, and the others are told who has."""

    def create(place: tuple[int, int]) -> tuple[int, int, str]:
        number, index = place
        words = ("network", "create", "--driver", "stackpad", "--subnet", f"172.29.9.{index * 8}/29", f"wanted-{index}")
        done = life.bench[number].try_docker(*words)
        return number, index, "" if done.returncode == 0 else done.stderr

    places = [(number, index) for index in range(ROUND) for number in life.bench]
    with ThreadPoolExecutor(len(places)) as pool:
        ended = list(pool.map(create, places))
    holders = {index: number for number, index, said in ended if not said}
    assert len(holders) == len([said for _, _, said in ended if not said]) == ROUND
    wrong = [(index, said) for _, index, said in ended if said and f"node {life.name(holders[index])}" not in said]
    assert wrong == []


@pytest.mark.replay("S38")
def test_a_range_is_one_nodes_in_the_whole_cluster(life: Life) -> None:
    """Named by the user; the error says who has it."""
    chosen = ("--subnet", "172.30.7.0/24")
    life.bench[1].network("named", *chosen)
    done = life.bench[2].try_docker("network", "create", "--driver", "stackpad", *chosen, "elsewhere")
    assert done.returncode != 0
    assert f"node {life.name(1)}" in done.stderr, done.stderr
    assert "elsewhere" not in life.bench[2].docker("network", "ls")
    wide = life.bench[2].try_docker("network", "create", "--driver", "stackpad", "--subnet", "10.192.0.0/16", "wide")
    assert (wide.returncode != 0, "overlaps" in wide.stderr) == (True, True)
    address = life.bench[1].serve("one", "named")
    life.bench[2].network("named", "--ipam-driver", "stackpad")
    life.bench[2].start("two", "named")
    eventually(lambda: life.meet(2, "two", address), "a claimed range to be reached")
    life.bench[1].docker("rm", "--force", "one")
    life.bench[1].docker("network", "rm", "named")
    life.bench[1].network("again", *chosen)


def test_an_environment_is_joined_by_its_name_alone(life: Life) -> None:
    """Whatever the network is called: who may create networks says which environment they are a part of."""
    life.bench[1].network(ENVIRONMENT)
    address = life.bench[1].serve("one", ENVIRONMENT)
    life.bench[2].network("called-otherwise", "--opt", f"stackpad.environment={ENVIRONMENT}")
    life.bench[2].start("two", "called-otherwise")
    eventually(lambda: life.finds(2, "two", "one") and life.meet(2, "two", address), "the environment's other part")


def test_a_member_takes_no_address_of_the_internet_away(life: Life) -> None:
    """One that writes a range over it into the store: all others reach the address where it is, and name the member."""
    life.bench[1].network(ENVIRONMENT)
    life.bench[1].start("one", ENVIRONMENT)
    nodes = json.loads(life.bench[1].node.stackpad("node", "ls", "--json").stdout)["nodes"]
    ids = {row["name"]: row["id"] for row in nodes}
    claim = records.Range(owner=ids[life.name(2)], net="198.51.100.0/24")
    key = records.range_key(claim.net)
    root = life.bench[1].node.root
    etcdctl = ["etcdctl", "--endpoints", f"unix://{root}/run/stackpad/etcd/client:0"]
    subprocess.run([*etcdctl, "put", key, records.encode(claim).decode()], check=True, capture_output=True)
    try:
        for number in (1, 3):
            told = f"a range of node {life.name(2)} is not reached from here: {claim.net} is no private range"
            eventually(lambda n=number, t=told: t in _problems(life, n), "it to be told")
            way = life.bench[number].exec("ip", "route", "get", "198.51.100.1").stdout
            assert "sp-wg" not in way
            assert "eth0" in way
        assert life.bench[1].reaches("one", Target("icmp", "198.51.100.1"))
    finally:
        subprocess.run([*etcdctl, "del", key], check=True, capture_output=True)


def _problems(life: Life, number: int) -> str:
    """What a node says that a person should know."""
    return life.bench[number].node.stackpad("status", "--json", check=False).stdout


def test_a_dead_node_loses_its_names_and_gets_them_back(life: Life) -> None:
    _, address = life.pair()
    plugin = life.bench[2].node.plugin_pid()
    os.kill(plugin, signal.SIGSTOP)
    try:
        eventually(lambda: not life.finds(1, "one", "two"), "the name to go", 150)
        assert life.meet(1, "one", address), "what runs goes on"
    finally:
        os.kill(plugin, signal.SIGCONT)
    eventually(lambda: life.finds(1, "one", "two"), "the name to come back", 150)


def test_without_the_store_all_goes_on(life: Life) -> None:
    """Its process is stopped: names and addresses stay, networks in a node's own block can be made, and none outside."""
    first, second = life.pair()
    (etcd,) = life.pids(1, "etcd")
    os.kill(etcd, signal.SIGSTOP)
    try:
        hold(12)
        assert life.finds(1, "one", "two")
        assert life.meet(1, "one", second)
        assert life.meet(2, "two", first)
        life.bench[2].network("meanwhile", "--ipam-driver", "stackpad")
        # What was known is known after a restart as well.
        os.kill(life.bench[2].node.plugin_pid(), signal.SIGKILL)
        hold(0.5)
        life.bench[2].wait_plugin()
        eventually(lambda: life.meet(2, "two", first) and life.finds(2, "two", "one"), "the other node again", 60)
        done = life.bench[2].try_docker(
            "network", "create", "--driver", "stackpad", "--subnet", "172.31.9.0/24", "outside", timeout=60
        )
        assert (done.returncode != 0, "store" in done.stderr) == (True, True), done.stderr
    finally:
        os.kill(etcd, signal.SIGCONT)
    life.bench[2].docker("rm", "--force", "two")
    eventually(lambda: not life.finds(1, "one", "two"), "news to pass again", 150)


@pytest.mark.replay("S45")
def test_a_wiped_store_is_filled_again(life: Life) -> None:
    """The same blocks, the same names, and not a packet lost meanwhile."""
    _, second = life.pair()
    with life.pinging(1, "one", second) as counts:
        _wipe(life, second)
        hold(2)  # what is lost when all seems well again counts, too
    sent, received = counts
    assert received == sent > 20
    life.bench[2].docker("rm", "--force", "two")
    eventually(lambda: not life.finds(1, "one", "two"), "news to pass again", 150)


def test_a_store_put_back_from_an_old_copy_is_brought_up_to_date(life: Life) -> None:
    """What has come since is there again and what has gone since is not, on every node, without a lost packet."""
    _, second = life.pair()
    life.bench[2].start("old", ENVIRONMENT)
    life.bench[2].network("old-production")
    eventually(lambda: life.finds(1, "one", "old"), "the container that is in the copy")
    (etcd,) = life.pids(1, "etcd")
    data = "/var/lib/stackpad/etcd/data"
    life.bench[1].exec("sh", "-c", f"kill -STOP {etcd}; cp -a {data} /var/lib/stackpad-copy; kill -CONT {etcd}")
    life.bench[2].docker("rm", "--force", "old")
    life.bench[2].docker("network", "rm", "old-production")
    life.bench[2].network("new-production")
    life.bench[2].start("new", ENVIRONMENT)
    eventually(lambda: life.finds(1, "one", "new") and not life.finds(1, "one", "old"), "both changes to be known", 150)
    with life.pinging(1, "one", second) as counts:
        life.bench[1].exec(
            "sh", "-c", f"kill -STOP {etcd}; rm -rf {data}; mv /var/lib/stackpad-copy {data}; kill -KILL {etcd}"
        )
        eventually(lambda: life.pids(1, "etcd") not in ([], [etcd]), "another etcd")
        eventually(lambda: life.connected(1) and life.connected(2), "the store to be back", 150)
        eventually(lambda: life.finds(1, "one", "new") and not life.finds(1, "one", "old"), "both changes again", 150)
        eventually(lambda: _kept(life) == {ENVIRONMENT: 2, "new-production": 1}, "the networks that there are", 150)
        hold(2)  # what is lost when all seems well again counts, too
    sent, received = counts
    assert received == sent > 20
    assert life.finds(2, "two", "one")


def _kept(life: Life) -> dict[str, int]:
    """Networks in the store by their environment, and on how many nodes each is."""
    root = life.bench[1].node.root
    words = ["etcdctl", "--endpoints", f"unix://{root}/run/stackpad/etcd/client:0", "get", "--prefix", "/", "-w", "json"]
    pairs = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout).get("kvs", ())
    found = [
        json.loads(base64.b64decode(pair["value"])) for pair in pairs if b"/networks/" in base64.b64decode(pair["key"])
    ]
    return dict(Counter(record["environment"] for record in found))


def _wipe(life: Life, second: str) -> None:
    before = json.loads(life.bench[1].node.stackpad("node", "ls", "--json", check=False).stdout)["nodes"]
    root = life.bench[1].node.root
    (etcd,) = life.pids(1, "etcd")
    data = root / "var/lib/stackpad/etcd"
    life.bench[1].exec("sh", "-c", f"kill -STOP {etcd}; rm -rf /var/lib/stackpad/etcd/*; kill -KILL {etcd}")
    assert life.meet(1, "one", second)

    def restored() -> bool:
        done = life.bench[1].node.stackpad("node", "ls", "--json", check=False)
        now = json.loads(done.stdout)["nodes"] if done.stdout else []
        same = [(row["name"], row["blocks"], row["mesh"]) for row in now] == [
            (row["name"], row["blocks"], row["mesh"]) for row in before
        ]
        return same and all(row["alive"] for row in now)

    eventually(restored, "the records to be written again", 150)
    assert data.exists()
    assert life.meet(1, "one", second)
    assert life.finds(1, "one", "two")


@pytest.mark.parametrize("number", [1, 2])
def test_a_key_is_changed_without_a_lost_packet(life: Life, number: int, tmp_path: Path) -> None:
    """Of the node with the store, and of another; both are found again after they were killed; nothing is in clear."""
    addresses = life.pair()
    enter, file = ("ip", "netns", "exec", life.bench[1].node.spec.netns), tmp_path / "capture"
    words = (*enter, "tcpdump", "--immediate-mode", "-Z", "root", "-i", "eth0", "-U", "-s", "0", "-w", str(file))
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as capture:
        try:
            _change_under_pings(life, number, addresses)
        finally:
            capture.terminate()
    seen = file.read_bytes()
    assert len(seen) > 450 * 100, "nothing was captured"
    for address in addresses:
        assert bytes(map(int, address.split("."))) not in seen


def _change_under_pings(life: Life, number: int, addresses: tuple[str, str]) -> None:
    before = life.public_keys()
    stackpad = life.bench[number].node.stackpad
    token = stackpad("node", "token").stdout.strip()
    # WireGuard keeps 128 packets while it waits for a handshake.
    ping = ("ping", "-q", "-i", "0.02", "-c", "450", "-W", "5")
    with ThreadPoolExecutor() as pool:
        ways = ((1, "one", addresses[1]), (2, "two", addresses[0]))
        running = [pool.submit(life.bench[at].docker, "exec", who, *ping, whom) for at, who, whom in ways]
        hold(1)
        done = stackpad("node", "rotate-key", check=False)
        assert done.returncode == 0, done.stderr
        for each in running:
            assert "450 packets transmitted, 450 received" in each.result()
    after = life.public_keys()
    assert {at for at in after if after[at] != before[at]} == {number}
    assert "unused tokens of this node are void" in done.stderr
    kept = [row["id"] for row in json.loads(stackpad("node", "token", "--list", "--json").stdout) if not row["used_by"]]
    assert kept == [], f"{token} names a key that the node has not any more"
    for killed in (1, 2):
        os.kill(life.bench[killed].node.plugin_pid(), signal.SIGKILL)
        hold(0.5)
        life.bench[killed].wait_plugin()
        eventually(lambda: life.meet(1, "one", addresses[1]) and life.finds(1, "one", "two"), "the other node again", 60)


@pytest.mark.replay("S45")
@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_plugin_finds_everything_again(life: Life, number: int) -> None:
    _, second = life.pair()
    before = life.blocks()
    os.kill(life.bench[number].node.plugin_init(), signal.SIGKILL)
    hold(0.5)
    life.bench[number].wait_plugin()
    assert life.blocks() == before
    eventually(lambda: life.meet(1, "one", second) and life.finds(1, "one", "two"), "the other node again", 150)


def test_a_reboot_brings_the_node_back(life: Life) -> None:
    for number in (1, 2):
        life.bench[number].network(ENVIRONMENT)
    life.bench[1].serve("one", ENVIRONMENT)
    life.bench[2].serve("two", ENVIRONMENT, "--restart", "always")
    life.bench[2].node.reboot()
    life.bench[2].wait_plugin()
    life.bench[2].wait_listening("two")
    address = life.bench[2].node.address_of("two", ENVIRONMENT)
    eventually(lambda: life.finds(1, "one", "two") and life.meet(1, "one", address), "the rebooted node", 150)


@pytest.mark.replay("S26", "S29", "S31")
def test_removing_a_node_frees_what_it_had(life: Life) -> None:
    _, second = life.pair()
    life.bench[1].node.stackpad("node", "rm", life.name(2), "--yes")
    assert life.name(2) not in life.nodes()
    eventually(lambda: not life.finds(1, "one", "two"), "its names to go")
    assert life.bench[1].cut_off("one", *everything(second))
    status = json.loads(life.bench[2].node.stackpad("status", "--json", check=False).stdout)
    eventually(
        lambda: not json.loads(life.bench[2].node.stackpad("status", "--json", check=False).stdout)["cluster"]["member"],
        "the node to see it",
    )
    left = [life.bench[2].exec("ip", *words).stdout for words in (("route", "show", "proto", "83"), ("link",), ("addr",))]
    assert not left[0]
    assert "sp-wg" not in left[1]
    assert "169.254.53.53/32" in left[2], "Docker asks there until it has another configuration"
    assert "10.192." not in life.bench[2].exec("nft", "list", "set", "inet", "stackpad", "peers4").stdout
    assert status["plugin"]["ready"]
    ended, said = life.join(2, life.token())
    assert ended == 0, said
    eventually(lambda: life.finds(1, "one", "two") and life.meet(1, "one", second), "it to be a node again", 150)
