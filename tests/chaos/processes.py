"""Faults of processes: the plugin, its tunnel, the engine, the store, Caddy and the ingress."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from stackpad import records
from tests.chaos.fault import (
    CONTROL,
    PLUGIN_ENDS,
    TRAFFIC_STOPS,
    UNNOTICED,
    WORKER,
    Goal,
    Place,
    fault,
)
from tests.chaos.wires import underlay
from tests.testbed import images
from tests.testbed.node import PLUGIN
from tests.testbed.shell import Failed, alive, run, wait_until


@fault("nothing at all", goal=UNNOTICED, roles=(CONTROL,), hold=10, note="what the machine loses by itself")
def nothing(place: Place) -> Iterator[None]:
    yield


@fault("plugin killed (SIGKILL)", goal=UNNOTICED, note="its successor takes the tunnel over")
def plugin_killed(place: Place) -> Iterator[None]:
    os.kill(place.node.plugin_pid(), signal.SIGKILL)
    yield


@fault("all of the plugin's processes killed (SIGKILL)", goal=PLUGIN_ENDS,
       note="the tunnel ends with them, and is up when a new plugin has started; TCP tries again later")  # fmt: skip
def plugin_ended(place: Place) -> Iterator[None]:
    os.kill(place.node.plugin_init(), signal.SIGKILL)
    yield


@fault("plugin stopped (SIGSTOP)", goal=UNNOTICED, hold=None, note="names of a node without a sign of life are hidden")
def plugin_stopped(place: Place) -> Iterator[None]:
    with place.stopped(place.node.plugin_pid()):
        yield


@fault("plugin disabled by force, and enabled", goal=PLUGIN_ENDS, hold=3,
       note="the tunnel is not there for as long as the plugin is disabled")  # fmt: skip
def plugin_disabled(place: Place) -> Iterator[None]:
    place.bench.docker("plugin", "disable", "--force", PLUGIN)
    yield
    place.bench.docker("plugin", "enable", PLUGIN)


@fault("plugin removed and made anew, as for an upgrade", goal=PLUGIN_ENDS, roles=(WORKER,),
       note="the tunnel is not there for as long as the plugin is away")  # fmt: skip
def plugin_replaced(place: Place) -> Iterator[None]:
    place.bench.docker("plugin", "disable", "--force", PLUGIN)
    place.bench.docker("plugin", "rm", "--force", PLUGIN)
    yield
    place.node.install_plugin(images.build(only_plugin=True).plugin)


@fault("a second plugin under another name", goal=UNNOTICED, roles=(WORKER,), hold=3)
def plugin_twice(place: Place) -> Iterator[None]:
    second, built = "stackpad/second:latest", Path(images.build(only_plugin=True).plugin)
    with tempfile.TemporaryDirectory(dir=built.parent) as copy:
        # Not quite the same: an engine does not take what it has already.
        run("cp", "--archive", "--link", f"{built}/rootfs", copy)
        Path(copy, "rootfs", "second").touch()
        config = msgspec.json.decode((built / "config.json").read_bytes())
        Path(copy, "config.json").write_bytes(msgspec.json.encode({**config, "description": "second"}))
        place.bench.docker("plugin", "create", second, copy)
    place.bench.try_docker("plugin", "enable", second)
    yield
    place.bench.docker("plugin", "rm", "--force", second)


@fault("wireguard-go killed (SIGKILL)", goal=PLUGIN_ENDS,
       note="the plugin starts another one, which calls its peers")  # fmt: skip
def tunnel_killed(place: Place) -> Iterator[None]:
    os.kill(place.one("wireguard-go"), signal.SIGKILL)
    yield


@fault("engine killed (SIGKILL), live-restore on", goal=UNNOTICED, hold=2,
       note="names within a node are answered by the engine itself")  # fmt: skip
def engine_killed(place: Place) -> Iterator[None]:
    place.node.stop_engine(signal.SIGKILL)
    yield
    place.node.start_engine()


@fault("engine restarted, live-restore on", goal=UNNOTICED)
def engine_restarted(place: Place) -> Iterator[None]:
    place.node.stop_engine()
    yield
    place.node.start_engine()


@fault("engine stopped (SIGSTOP): its API hangs", goal=UNNOTICED, hold=12)
def engine_stopped(place: Place) -> Iterator[None]:
    with place.stopped(place.engine_pid()):
        yield


@fault("engine restarted, live-restore off", goal=TRAFFIC_STOPS, note="Docker ends all containers itself")
def engine_restarted_without(place: Place) -> Iterator[None]:
    place.configure(**{"live-restore": False})
    place.node.stop_engine()
    yield
    place.node.start_engine()
    place.configure(**{"live-restore": True})
    os.kill(place.engine_pid(), signal.SIGHUP)


@fault("simulated reboot: kernel objects, /run and processes gone", goal=TRAFFIC_STOPS)
def rebooted(place: Place) -> Iterator[None]:
    place.node.power_off()
    yield
    _power_on(place)


@fault("no power for longer than the lease", goal=TRAFFIC_STOPS, hold=15, roles=(WORKER,))
def without_power(place: Place) -> Iterator[None]:
    place.node.power_off()
    yield
    _power_on(place)


@fault("etcd killed (SIGKILL)", goal=UNNOTICED, roles=(CONTROL,), daily=True)
def store_killed(place: Place) -> Iterator[None]:
    os.kill(place.one("etcd"), signal.SIGKILL)
    yield


@fault("etcd stopped (SIGSTOP)", goal=UNNOTICED, roles=(CONTROL,), hold=None, daily=True)
def store_stopped(place: Place) -> Iterator[None]:
    with place.stopped(place.one("etcd")):
        yield


@fault("etcd's data wiped", goal=UNNOTICED, roles=(CONTROL,), daily=True)
def store_wiped(place: Place) -> Iterator[None]:
    pid = place.one("etcd")
    os.kill(pid, signal.SIGSTOP)
    shutil.rmtree(place.node.root / "var/lib/stackpad/etcd/data")
    os.kill(pid, signal.SIGKILL)
    yield


@fault("all ranges deleted from the store by hand", goal=UNNOTICED, roles=(CONTROL,))
def ranges_deleted(place: Place) -> Iterator[None]:
    """The nodes' own addresses in the tunnel are in them: who forgets another node's could not hear it say so."""
    store = f"unix://{place.node.root}/run/stackpad/etcd/client:0"
    run("etcdctl", "--endpoints", store, "del", "--prefix", records.RANGES)
    yield


@fault("etcd's data put back from an older copy", goal=UNNOTICED, roles=(CONTROL,))
def store_restored(place: Place) -> Iterator[None]:
    """It has a network that is gone since, and revisions before those from which the nodes watch."""
    pid, data = place.one("etcd"), place.node.root / "var/lib/stackpad/etcd/data"
    stale = "gone-production"
    place.bench.docker("network", "create", "--driver", "stackpad", stale)
    wait_until("the network in the store", lambda: _in_store(place, stale), 10)
    with tempfile.TemporaryDirectory() as kept:
        with place.stopped(pid):
            shutil.copytree(data, f"{kept}/data")
        place.bench.docker("network", "rm", stale)
        wait_until("the network out of the store", lambda: not _in_store(place, stale), 10)
        os.kill(pid, signal.SIGSTOP)
        shutil.rmtree(data)
        shutil.copytree(f"{kept}/data", data)
        os.kill(pid, signal.SIGKILL)
    yield


def _in_store(place: Place, environment: str) -> bool:
    words = ["etcdctl", "--endpoints", f"unix://{place.node.root}/run/stackpad/etcd/client:0", "--command-timeout=5s"]
    return environment in run(*words, "get", "--prefix", "/stackpad/1/").stdout


@fault(
    "etcd compacted behind a node that is cut off",
    goal=Goal(still=("same", "published"), across=None, others=False),
    roles=(CONTROL,),
    hold=8,
)
def store_compacted(place: Place) -> Iterator[None]:
    """The second node cannot go on where it was: what it missed is gone from the store's memory."""
    words = ["etcdctl", "--endpoints", f"unix://{place.node.root}/run/stackpad/etcd/client:0", "--command-timeout=5s"]
    port = place.scene.bed.nodes[1].name
    with underlay(place, f"iifname {port} drop", f"oifname {port} drop"):
        for number in range(5):
            run(*words, "put", "/chaos/key", str(number))
        run(*words, "del", "/chaos/key")
        said = run(*words, "get", "/chaos/key", "--write-out=fields").stdout
        revision = next(line.split()[-1] for line in said.splitlines() if '"Revision"' in line)
        run(*words, "compaction", "--physical", revision)
        yield


@fault(
    "Caddy killed (SIGKILL), and started by its supervisor",
    roles=(CONTROL,),
    hold=1,
    goal=Goal(still=("same", "published")),
)
def caddy_killed(place: Place) -> Iterator[None]:
    place.scene.bed.proxy.stop_caddy(signal.SIGKILL)
    yield
    place.scene.bed.proxy.start_caddy()


@fault("ingress killed (SIGKILL), and started by its supervisor", goal=UNNOTICED, hold=3)
def ingress_killed(place: Place) -> Iterator[None]:
    """On the second node, what says to Caddy's node which web services there are."""
    bed = place.scene.bed
    ingress = bed.proxy if place.number == CONTROL else bed.agents[place.number - 2]
    ingress.stop_ingress(signal.SIGKILL)
    yield
    ingress.start_ingress()


@fault("ingress stopped (SIGSTOP)", goal=UNNOTICED, roles=(CONTROL,), hold=15)
def ingress_stopped(place: Place) -> Iterator[None]:
    with place.scene.bed.proxy.ingress_suspended():
        yield


def _power_on(place: Place) -> None:
    """Power, the engine, and on the nodes that have them Caddy and the ingress, as their supervisors would."""
    place.node.power_on()
    bed = place.scene.bed
    if place.number == CONTROL:
        bed.proxy.start()
    else:
        bed.agents[place.number - 2].start_ingress()


@fault("plugin killed again while it starts", goal=UNNOTICED, roles=(WORKER,))
def plugin_killed_twice(place: Place) -> Iterator[None]:
    for _ in range(4):
        before = place.node.plugin_pid()
        os.kill(before, signal.SIGKILL)
        wait_until("another plugin", lambda before=before: _another(place, before))
        time.sleep(0.3)
    yield


def end_twice(place: Place) -> None:
    """Kill all of the plugin's processes, and those that the engine starts then while they start."""
    before = place.node.plugin_init()
    os.kill(before, signal.SIGKILL)
    wait_until("another plugin", lambda: any(pid != before and alive(pid) for pid in _plugins(place)))
    time.sleep(0.3)
    for pid in _plugins(place):
        os.kill(pid, signal.SIGKILL)


@fault("all of the plugin's processes killed again while they start", goal=Goal(across=2.0), roles=(WORKER,),
       note="an engine that starts a plugin and then finds nobody at its socket, four times in 9.5 s, gives it up "
            "(pluginPostStart in moby's plugin/manager_linux.go): docker plugin enable")  # fmt: skip
def plugin_ended_twice(place: Place) -> Iterator[None]:
    end_twice(place)
    yield


def _another(place: Place, before: int) -> bool:
    try:
        return place.node.plugin_pid() != before
    except Failed:
        return False


def _plugins(place: Place) -> list[int]:
    return [pid for pid in place.pids("python", "-m", "plugin") if alive(pid)]
