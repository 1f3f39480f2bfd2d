"""The accepts our traffic needs in chains that are not ours.

Docker sets the FORWARD policy to DROP, and in netfilter an accept in one table does not save a packet from a drop
in another. So our bridges are accepted in ``DOCKER-USER``, the chain Docker leaves to its users (or in FORWARD,
where there is no such chain but a DROP policy). Our own drops have been made by then: ours is the earlier hook.

The rules go to the end of the chain, before its closing RETURN if it has one: what an operator has written there
to keep somebody out goes on holding for our networks too. They carry the comment ``stackpad`` and are the only
ones touched. Both back ends of iptables are looked after, each only where its table is in use already.

A DROP policy with no jump from FORWARD to ``DOCKER-USER`` (after ``iptables -F``, say) would drop all of ours until
Docker's next start; then the jump is put back where Docker has it, at the top, and Docker itself keeps but one. At the
end of such a FORWARD stands an accept for what runs already, see :data:`HELD`.

Blocking, for the kernel thread.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from plugin.kernel import commands
from plugin.naming import BRIDGE_PREFIX
from stackpad.errors import Unavailable

COMMENT = "stackpad"
DOCKER_USER = "DOCKER-USER"
_DROPS = "-P FORWARD DROP"

_SIDES = ("-i", "-o")
RULES = tuple(f"{side} {BRIDGE_PREFIX}+ -m comment --comment {COMMENT} -j ACCEPT" for side in _SIDES)

HELD = tuple(
    f"{side} {BRIDGE_PREFIX}+ -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment {COMMENT} -j ACCEPT"
    for side in _SIDES
)
"""For the end of FORWARD. An engine that starts takes its jump to ``DOCKER-USER`` out and puts it in again, and what
comes in between meets the policy. What runs already goes on by these; what an operator keeps out has never begun.
"""


class ForeignChains:
    """Our accepts in the chains of iptables, in both families and back ends.

    ``run`` and ``proc`` are the host's ``/run`` and ``/proc``, where the lock of the legacy back end and its list
    of tables are.
    """

    def __init__(self, run: Path, proc: Path) -> None:
        self._lock = run / "xtables.lock"
        self._proc = proc

    def repair(self) -> list[str]:
        """Put back what is missing; returns the chains that were mended, as ``iptables-nft DOCKER-USER``."""
        mended: dict[str, None] = {}
        for tool in self._tools():
            docker_user, forward = self._listed(tool, DOCKER_USER), self._listed(tool, "FORWARD")
            chain = _target(docker_user, forward)
            if chain is None:
                continue
            scripts = [(chain, mend(chain, docker_user or forward))]
            if docker_user and _DROPS in forward:
                scripts += [("FORWARD", mend("FORWARD", forward, HELD)), ("FORWARD", reach(forward))]
            for name, script in scripts:
                if script:
                    self._run(f"{tool}-restore", "--noflush", script=script)
                    mended[f"{tool} {name}"] = None
        return list(mended)

    def remove(self) -> None:
        """Take our rules out again; for an uninstallation."""
        for tool in self._tools():
            for chain in (DOCKER_USER, "FORWARD"):
                ours = [line for line in self._listed(tool, chain) if _is_ours(line)]
                if ours:
                    deletions = "".join(line.replace("-A", "-D", 1) + "\n" for line in ours)
                    self._run(f"{tool}-restore", "--noflush", script=f"*filter\n{deletions}COMMIT\n")

    def uses_legacy(self) -> bool:
        """Whether the legacy back end is in use; its changes do not show in nftables' generation id."""
        return any("legacy" in tool for tool in self._tools())

    def _tools(self) -> Iterator[str]:
        for family, tables in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
            yield f"{family}-nft"
            try:
                in_use = "filter" in (self._proc / "thread-self/net" / tables).read_text().split()
            except OSError:
                in_use = False
            if in_use:
                yield f"{family}-legacy"

    def _listed(self, tool: str, chain: str) -> list[str]:
        try:
            return self._run(tool, "-S", chain).splitlines()
        except Unavailable:
            return []  # no such chain

    def _run(self, *command: str, script: str = "") -> str:
        tool, *rest = command
        waiting = ["-w", "5"] if "-S" in rest or "legacy" in tool else []
        environment = {"XTABLES_LOCKFILE": str(self._lock)}
        done = commands.run(tool, *waiting, *rest, script=script, package="iptables", environment=environment)
        if done.returncode:
            raise Unavailable(f"{shlex.join(command)} failed: {done.stderr.strip()}")
        return done.stdout


def _target(docker_user: Sequence[str], forward: Sequence[str]) -> str | None:
    if docker_user:
        return DOCKER_USER
    return "FORWARD" if _DROPS in forward else None


def mend(chain: str, listed: Sequence[str], wanted_rules: Sequence[str] = RULES) -> str:
    """The ``iptables-restore`` script that makes ``chain`` right, given what ``-S`` says of it; empty if it is.

    Right is: both of ours there, and no RETURN for everything before them.
    """
    rules = [line for line in listed if line.startswith(f"-A {chain} ") or line == f"-A {chain}"]
    others = [line for line in rules if not _is_ours(line)]
    closing = f"-A {chain} -j RETURN"
    end = others.index(closing) if closing in others else len(others)
    wanted = [*others[:end], *(f"-A {chain} {rule}" for rule in wanted_rules), *others[end:]]
    if [_plain(line) for line in rules] == [_plain(line) for line in wanted]:
        return ""
    deletions = "".join(line.replace("-A", "-D", 1) + "\n" for line in rules if _is_ours(line))
    additions = "".join(f"-I {chain} {end + 1 + offset} {rule}\n" for offset, rule in enumerate(wanted_rules))
    return f"*filter\n{deletions}{additions}COMMIT\n"


def reach(forward: Sequence[str]) -> str:
    """The script that has forwarded packets reach ``DOCKER-USER``, given what ``-S FORWARD`` says; empty if they do.

    A jump with conditions is somebody's decision, and a policy of ACCEPT needs none.
    """
    jumps = any(line.startswith("-A FORWARD ") and line.endswith(f"-j {DOCKER_USER}") for line in forward)
    return "" if jumps or _DROPS not in forward else f"*filter\n-I FORWARD 1 -j {DOCKER_USER}\nCOMMIT\n"


def _is_ours(line: str) -> bool:
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return ("--comment", COMMENT) in pairwise(words) and f"{BRIDGE_PREFIX}+" in words


def _plain(line: str) -> str:
    return line.replace('"', "")
