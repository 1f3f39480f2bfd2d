"""Everything a node has of ours, as lines that can be compared: before a fault, and after it.

What is another's after each restart (ids of endpoints and of processes, ports chosen at random, handles and counters of
rules) is counted or left out, so that equal means: nothing is missing, and nothing has leaked.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stackpad import records
from tests.testbed import network
from tests.testbed.node import Node
from tests.testbed.shell import Failed, run
from tests.testbed.testbed import Testbed

Census = dict[str, Counter[str]]
"""Lines by what they are of, such as ``n1 links``."""

SPARE_FILES = 12
"""Open files of the plugin beyond those before that are no leak: connections to the store, requests under way."""

_OF_AN_ENDPOINT = re.compile(r"\b(spv|spc|veth)[0-9a-f]+(@if\d+)?")
_OF_A_SERVICE = re.compile(r"\b[2-6]\d{4}\b")
"""Numbers that stand for a service, another one after each restart of the ingress."""

_OF_A_PLUGIN = re.compile(r"/plugins/[0-9a-f]{64}")
_TRANSIENT = {
    "runc",
    "docker",
    "nsenter",
    "ip",
    "nft",
    "iptables",
    "sh",
    "ps",
    "unpigz",
    "sleep",
    "find",
    "ss",
    "modprobe",
}
_OURS = ("python", "wireguard-go", "etcd", "caddy")
_IGNORED_FILES = re.compile(r"/etcd/data/|/certificates\.json$|\.tmp$|\.part$|net\.db-(wal|shm)$|-std(err|out)$")


def take(bed: Testbed) -> Census:
    """The census of all nodes and of the store."""
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(_node, bed.nodes))
    found = {kind: lines for part in parts for kind, lines in part.items()}
    found["store keys"] = Counter(_keys(bed.nodes[0]))
    return found


def settled(bed: Testbed) -> Census:
    """A census of nodes on which nothing changes any more."""
    found = take(bed)
    for _ in range(30):
        time.sleep(2)
        again = take(bed)
        if not differences(found, again) and not differences(again, found):
            return again
        found = again
    raise Failed("the nodes do not come to rest")


def differences(before: Census, after: Census) -> list[str]:
    """What is missing (``-``) and what is new (``+``), a line each; empty if both are alike."""
    found = []
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, Counter()), after.get(kind, Counter())
        if kind.endswith(" open files"):
            (had,), (has,) = (list(map(int, each)) or [0] for each in (old, new))
            found += [f"+ {kind}: {has} instead of {had}"] if has > had + SPARE_FILES else []
            continue
        for sign, lines in (("-", old - new), ("+", new - old)):
            found += [f"{sign} {kind}: {line}{f' ({count} times)' if count > 1 else ''}" for line, count in lines.items()]
    return found


def _node(node: Node) -> Census:
    enter = ["ip", "netns", "exec", node.spec.netns]

    def said(*command: str) -> list[str]:
        return run(*enter, *command, check=False).stdout.splitlines()

    links = json.loads("".join(said("ip", "-j", "addr")) or "[]")
    name = {link["ifname"]: _OF_AN_ENDPOINT.sub(r"\1", link["ifname"]) for link in links}
    addresses = (
        f"{name[link['ifname']]} {each['local']}/{each['prefixlen']}"
        for link in links
        for each in link["addr_info"]
        if not each["local"].startswith("fe80:")
    )
    routes = [line for version in ("-4", "-6") for line in said("ip", version, "route", "show", "table", "all")]
    rules = [line for family in ("inet", "bridge") for line in said("nft", "-s", "list", "table", family, "stackpad")]
    accepts = [line for tool in ("iptables", "ip6tables") for line in _accepts(tool, said(tool, "-S"))]
    listening = (line.split() for line in said("ss", "-Hltunp"))
    files = node.exec("find", "/var/lib/stackpad", "/run/stackpad", "/run/docker/plugins", check=False).stdout
    made = {
        "links": (f"{name[link['ifname']]} {link['operstate']}" for link in links),
        "addresses": addresses,
        "routes": (_OF_AN_ENDPOINT.sub(r"\1", line) for line in routes if "fe80:" not in line and "ff00:" not in line),
        "rules": (part for line in rules for part in _elements(line)),
        "accepts": accepts,
        "sockets": (f"{words[0]} {words[4]}" for words in listening if any(f'"{who}' in words[-1] for who in _OURS)),
        "files": (
            _OF_A_PLUGIN.sub("/plugins/ID", line) for line in files.splitlines() if not _IGNORED_FILES.search(line)
        ),
        "processes": _processes(node),
        "open files": [_open_files(node)],
    }
    return {f"{node.name} {kind}": Counter(lines) for kind, lines in made.items()}


def _accepts(tool: str, rules: list[str]) -> Iterable[str]:
    """Whether ours get through where others drop, and nothing of ours is there twice.

    Where nobody drops, as after a flush until the engine's next start, none of our accepts is needed.
    """
    ours = Counter(line for line in rules if "stackpad" in line and "--ctstate" not in line)
    through = len(ours) >= 2 or "-P FORWARD DROP" not in rules
    yield f"{tool}: what is ours is {'let through' if through else 'dropped'}"
    yield from (f"{tool}: twice {line}" for line, count in ours.items() if count > 1)


def _elements(line: str) -> Iterable[str]:
    """A line of rules; of a set's elements each by itself, for their order is chance."""
    line = _OF_A_SERVICE.sub("SERVICE", _OF_AN_ENDPOINT.sub(r"\1", line.strip()))
    listed = re.fullmatch(r"(?:elements = \{ )?(.*?),?(?: \})?", line)
    if line.startswith("elements") or line.endswith((",", " }")):
        return [part.strip() for part in (listed[1] if listed else line).split(",")]
    return [line]


def _processes(node: Node) -> Iterable[str]:
    for pid in network.inhabitants(node.spec.netns):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        word = Path(words[0]).name
        if words[0] and not zombie and word not in _TRANSIENT:
            yield f"{word} {words[2]}" if word.startswith("python") and len(words) > 2 else word


def _open_files(node: Node) -> str:
    try:
        return str(len(list(Path(f"/proc/{node.plugin_pid()}/fd").iterdir())))
    except Exception:
        return "0"


def _keys(node: Node) -> Iterable[str]:
    """The store's keys; ids of endpoints are counted, for they are others after a restart of a container.

    Ranges that were given back go when they have cooled down, whatever happens meanwhile.
    """
    store = f"unix://{node.root}/run/stackpad/etcd/client:0"
    words = ["--endpoints", store, "--command-timeout=3s", "get", "--prefix", "/stackpad/"]
    lines = run("etcdctl", *words, check=False).stdout.splitlines()
    for key, value in zip(lines[::2], lines[1::2], strict=False):
        if not (key.startswith(records.RANGES) and json.loads(value).get("freed")):
            yield re.sub(r"/[0-9a-f]{64}$", "/ENDPOINT", key)
