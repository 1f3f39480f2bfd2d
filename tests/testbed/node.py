"""One Docker host: a network and a mount namespace, and an engine in them.

A *holder* process keeps the mount namespace: with a ``/run`` and ``/var/lib`` of its own and, for an engine that is
not the machine's, a root file system of its own (an overlay over the tree). Engines come and go in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import network
from tests.testbed.images import Images
from tests.testbed.plan import NAME_SERVER, NodePlan, Plan
from tests.testbed.shell import ROOT, Failed, alive, run, say, spawn, wait_until
from tests.testbed.trees import engine_tree

PLUGIN = "stackpad/net"

_HOLD = """
set -e
mount --make-rprivate /
{root}
mount -t tmpfs -o mode=755 run /run
mount --make-shared /run
mkdir -p /run/docker /run/lock
mount --bind {home}/lib /var/lib
mkdir -p /etc/docker
mount --bind {home}/etc /etc/docker
mount --bind {home}/resolv.conf /etc/resolv.conf
mkdir -p {home}/cgroup && mount --rbind /sys/fs/cgroup {home}/cgroup
mount -t sysfs sysfs /sys
mount --rbind {home}/cgroup /sys/fs/cgroup
umount -l {home}/cgroup
hostname {name}
echo $$ > {home}/holder.part
mv {home}/holder.part {home}/holder.pid
exec sleep infinity
"""

_OWN_ROOT = """
mount -t overlay -o lowerdir={tree},upperdir={home}/upper,workdir={home}/work overlay {home}/root
for there in /proc /sys /dev; do mount --rbind $there {home}/root$there; done
mkdir -p {home}/root{home} {home}/root/machine
mount --bind {home} {home}/root{home}
cp /etc/resolv.conf {home}/root/etc/resolv.conf
cd {home}/root
pivot_root . machine
umount -l /machine
"""

_EMPTY = """
*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
COMMIT
*nat
COMMIT
*mangle
COMMIT
*raw
COMMIT
"""
"""The tables of iptables' old back end as a boot leaves them; nftables knows nothing of them."""


@dataclass(frozen=True, slots=True)
class Node:
    """A running node; ``home`` is its directory on the machine."""

    plan: Plan
    spec: NodePlan
    home: Path

    @property
    def name(self) -> str:
        """``n1`` and so on."""
        return self.spec.name

    @property
    def address(self) -> str:
        """Where other nodes reach it."""
        return self.spec.address

    @property
    def address6(self) -> str:
        """The same for IPv6."""
        return self.spec.address6

    @property
    def docker_host(self) -> str:
        """The engine's socket, as seen from the machine."""
        return f"unix://{self.home / 'docker.sock'}"

    @property
    def root(self) -> Path:
        """The node's file system, as seen from the machine."""
        return Path(f"/proc/{self._pid('holder.pid')}/root")

    def start(self) -> None:
        """Make the mount namespace and start the engine."""
        for part in ("lib", "etc", "upper", "work", "root", "data"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        (self.home / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
        own = self.spec.engine != "debian12"
        root = _OWN_ROOT.format(tree=engine_tree(self.spec.engine), home=self.home) if own else ""
        script = _HOLD.format(root=root, home=self.home, name=f"{self.plan.name}-{self.name}")
        enter = [
            "nsenter",
            f"--net=/run/netns/{self.spec.netns}",
            "unshare",
            "--mount",
            "--uts",
            "bash",
            "-c",
            script,
        ]
        spawn(enter, self.home / "holder.log")
        wait_until(f"{self.name}'s namespaces", (self.home / "holder.pid").exists)
        wait_until(f"{self.name}'s mounts", lambda: (self.root / "run/lock").exists())
        if self.spec.engine == "legacy":
            # What update-alternatives would do; it keeps its books in /var/lib, of which a node has its own.
            for tool in (f"{family}{end}" for family in ("iptables", "ip6tables") for end in ("", "-save", "-restore")):
                program = tool.replace("tables", "tables-legacy")
                self.exec("ln", "-sfn", f"/usr/sbin/{program}", f"/etc/alternatives/{tool}")
        self.start_engine()

    def start_engine(self, *options: str) -> None:
        """Start the engine and wait until it answers; ``options`` are dockerd's."""
        command = [
            *self.enter(), "dockerd", "--data-root", self.home / "data", "--exec-root", self.home / "exec",
            "--pidfile", self.home / "docker.pid", "--host", "unix:///run/docker.sock",
            "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.spec.netns}",
            "--host", self.docker_host, *options,
        ]  # fmt: skip
        (self.home / "docker.pid").unlink(missing_ok=True)
        pid = spawn(command, self.home / "dockerd.log")

        def answers() -> bool:
            if not alive(pid):
                raise Failed(f"{self.name}'s engine ended:\n{self.log(8)}")
            return bool(self.docker("version", "--format", "{{.Server.Version}}", check=False).strip())

        wait_until(f"{self.name}'s engine", answers)

    def stop_engine(self, how: int = signal.SIGTERM) -> None:
        """Stop the engine, or with SIGKILL have it die, and wait for its end."""
        pid = self._pid("docker.pid")
        os.kill(pid, how)
        wait_until(f"the end of {self.name}'s engine", lambda: not alive(pid))
        if how == signal.SIGKILL:
            # Its containerd dies with it, but where nobody reaps orphans its zombie looks alive to the next engine.
            (self.home / "docker.pid").unlink(missing_ok=True)
            for name in ("containerd/containerd.pid", "containerd/docker-containerd.pid"):
                file = self.home / "exec" / name
                if file.exists() and not alive(int(file.read_text() or 0)):
                    file.unlink()

    def restart_engine(self, *options: str, how: int = signal.SIGTERM) -> None:
        """Stop and start the engine."""
        self.stop_engine(how)
        self.start_engine(*options)

    def reboot(self) -> None:
        """Take everything the kernel and ``/run`` hold away, as a reboot does, and start the engine again."""
        self.power_off()
        self.power_on()

    def power_on(self) -> None:
        """Start again after :meth:`power_off`: with its address, and with what is on its disk."""
        run("ip", "-n", self.plan.switch, "link", "set", self.name, "up")
        network.connect(self.plan, self.spec)
        self.start_engine()

    def power_off(self) -> None:
        """End it as a power cut does: its link first, then every process, and what the kernel and ``/run`` hold."""
        run("ip", "-n", self.plan.switch, "link", "set", self.name, "down")
        self.stop_engine(signal.SIGKILL)
        holder = self._pid("holder.pid")
        self._end(pid for pid in self._processes() if pid != holder)
        self.exec("nft", "flush", "ruleset")
        if self.spec.engine == "legacy":
            for tool in ("iptables-restore", "ip6tables-restore"):
                self.exec(tool, script=_EMPTY)
        for name in self._links():
            if name not in {"lo", "eth0"}:
                self.exec("ip", "link", "del", name, check=False)
        # What hangs on no link: routes that say "unreachable", and addresses of the loopback.
        for words in ("-4 route flush proto 83", "-6 route flush proto 83", "addr flush dev lo scope global"):
            self.exec("ip", *words.split(), check=False)
        wipe = "umount -l /run/docker/netns/* /run/docker 2>/dev/null; rm -rf /run/*; mkdir -p /run/docker /run/lock"
        self.exec("sh", "-c", wipe)
        self.exec("sh", "-c", f"umount -l {self.home}/exec/netns/* 2>/dev/null; rm -rf {self.home}/exec")
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.exec("sh", "-c", f"echo 0 > /proc/sys/net/{name}")

    def end(self) -> None:
        """End every process of the node, and so free its mounts.

        At once, since nothing of it is kept: an engine asked to stop would wait for its plugin and its containers.
        """
        try:
            wait_until(f"the end of {self.name}'s processes", self._kill_all)
        except Failed as error:
            say(str(error))
        for group in sorted(self._cgroups(), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()

    def load(self, images: Images, chosen: Iterable[str], *, plugin: bool) -> None:
        """Load the chosen images, and install the plugin.

        At the same time: a plugin is compressed by one thread of the engine, images are read from the disk.
        """
        with ThreadPoolExecutor(2) as pool:
            installed = pool.submit(self.install_plugin, images.plugin) if plugin else None
            for archive in images.archives:
                if any(f"stackpad_{word}" in archive.name for word in chosen):
                    self.docker("load", "--quiet", "--input", archive)
            if installed is not None:
                installed.result()

    def install_plugin(self, directory: Path, name: str = PLUGIN) -> None:
        """Create the managed plugin from its directory and enable it."""
        self.docker("plugin", "create", name, directory)
        self.docker("plugin", "enable", name)

    def docker(self, *arguments: str | Path, check: bool = True, timeout: float = 300) -> str:
        """Run the Docker client against this node's engine; returns what it printed."""
        return self.try_docker(*arguments, check=check, timeout=timeout).stdout

    def try_docker(
        self, *arguments: str | Path, check: bool = False, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """The same with exit status and both outputs."""
        env = {"DOCKER_HOST": self.docker_host}
        return run(self.client, *arguments, env=env, check=check, timeout=timeout)

    @property
    def client(self) -> str:
        """The Docker client that goes with the engine: an old engine does not know all that a newer client says."""
        debians_own = Path("/usr/bin/docker")
        return str(debians_own) if self.spec.engine == "debian12" and debians_own.exists() else "docker"

    def stackpad(
        self, *words: str, check: bool = True, timeout: float = 90, configures: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run our command line on this node; ``configures`` says that it may write the node's ``daemon.json``."""
        env = {"STACKPAD_SOCKET": str(self.root / "run/stackpad/net.sock"), "PYTHONPATH": str(ROOT)}
        places = ["--daemon-json", f"{self.root}/etc/docker/daemon.json"] if configures else []
        if configures and words[1] != "leave":
            places += ["--docker-socket", f"{self.root}/run/docker.sock", "--dns", NAME_SERVER]
        return run(sys.executable, "-m", "stackpad.cli", *words, *places, env=env, check=check, timeout=timeout)

    def exec(
        self, *command: str | Path, check: bool = True, script: str | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's namespaces, in its root file system."""
        return run(*self.enter(), *command, check=check, script=script, timeout=timeout)

    def inside(self, container: str, *command: str, check: bool = False, timeout: float = 60) -> tuple[int, str]:
        """Run a command in a container; returns exit status and everything printed."""
        done = self.try_docker("exec", container, *command, check=check, timeout=timeout)
        return done.returncode, done.stdout + done.stderr

    def engine_version(self) -> str:
        """The engine's version, as ``docker version`` says it."""
        return self.docker("version", "--format", "{{.Server.Version}}").strip()

    def address_of(self, container: str, network_name: str, version: int = 4) -> str:
        """A container's address on a network."""
        networks = json.loads(self.docker("inspect", container, "--format", "{{json .NetworkSettings.Networks}}"))
        return str(networks[network_name]["IPAddress" if version == 4 else "GlobalIPv6Address"])

    def plugin_pid(self) -> int:
        """The process id of the plugin; with it dies nothing else."""
        return self._plugin(first=False)

    def plugin_init(self) -> int:
        """The id of process 1 of the plugin's container; with it dies all that is in there."""
        return self._plugin(first=True)

    def _plugin(self, *, first: bool) -> int:
        for pid in network.inhabitants(self.spec.netns):
            with contextlib.suppress(OSError):
                process = Path(f"/proc/{pid}")
                if (process / "cmdline").read_bytes().split(b"\0")[1:3] != [b"-m", b"plugin"]:
                    continue
                (ids,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("NSpid:"))
                if (ids.split()[-1] == "1") is first:
                    return pid
        raise Failed(f"no plugin runs on {self.name}")

    def log(self, lines: int = 30) -> str:
        """The last lines of the engine's log."""
        return "\n".join(self._log()[-lines:])

    def plugin_log(self, lines: int = 30) -> str:
        """The last lines that the plugin has had the engine log."""
        return "\n".join([line for line in self._log() if " plugin=" in line][-lines:])

    def _log(self) -> list[str]:
        return (self.home / "dockerd.log").read_text(errors="replace").splitlines()

    def _processes(self) -> list[int]:
        """Processes in the node's namespace, and those of its containers, which have namespaces of their own."""
        found = set(network.inhabitants(self.spec.netns))
        for group in self._cgroups():
            with contextlib.suppress(OSError):
                found.update(map(int, (group / "cgroup.procs").read_text().split()))
        return sorted(found)

    def _kill_all(self) -> bool:
        """Whether nobody is left; who is gets killed. Again and again, for an engine starts others meanwhile."""
        left = [pid for pid in self._processes() if alive(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def _cgroups(self) -> list[Path]:
        """The control groups of the node's containers, in every hierarchy."""
        tops = [*Path("/sys/fs/cgroup").glob(f"*/{self.spec.netns}"), Path("/sys/fs/cgroup") / self.spec.netns]
        # Containers that end take theirs away meanwhile.
        return [Path(path) for top in tops for path, _, _ in os.walk(top)]

    def _links(self) -> list[str]:
        listing = json.loads(self.exec("ip", "-j", "link").stdout or "[]")
        return [str(link["ifname"]) for link in listing]

    def enter(self) -> list[str | Path]:
        """The words that put a command into the node's namespaces."""
        return ["nsenter", "--target", str(self._pid("holder.pid")), "--mount", "--net", "--uts"]

    def _pid(self, name: str) -> int:
        try:
            return int((self.home / name).read_text())
        except (FileNotFoundError, ValueError) as error:
            raise Failed(f"{self.name} does not run: there is no {self.home / name}") from error

    def _end(self, pids: Iterable[int]) -> None:
        pids = list(pids)
        for how, patience in ((signal.SIGTERM, 8), (signal.SIGKILL, 8)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            with contextlib.suppress(Failed):
                wait_until("processes to end", lambda: not any(map(alive, pids)), patience)
                return
