"""What is on a wire: packets of any source sent past all addresses and rules, and captures that show what arrives.

That nothing comes is shown in order, not in time: what must not arrive is sent first, an honest packet after it by the
same way, and once the capture shows the honest one, the others would have been there. Each test has words of its own.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.workbench import Workbench, eventually
from tests.testbed.shell import run

FORGE = """
import json, socket, struct, sys
link, packets = sys.argv[1], json.loads(sys.argv[2])
def total(data):
    data += b"\\0" * (len(data) % 2)
    found = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while found > 0xffff: found = (found & 0xffff) + (found >> 16)
    return found
def packet(source, target, text):
    body = text.encode()
    length = 8 + len(body)
    if ":" in source:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
        head = struct.pack(">IHBB", 6 << 28, length, 17, 64) + ends
    else:
        ends = socket.inet_aton(source) + socket.inet_aton(target)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, 17, 0) + ends
        head = head[:10] + struct.pack(">H", total(head) ^ 0xffff) + head[12:]
    datagram = struct.pack(">HHHH", 4444, 4445, length, 0) + body
    check = total(ends + struct.pack(">II", length, 17) + datagram) ^ 0xffff
    return head + datagram[:6] + struct.pack(">H", check or 0xffff) + datagram[8:]
tunnel = open("/sys/class/net/%s/type" % link).read().strip() == "65534"
kind = socket.SOCK_DGRAM if tunnel else socket.SOCK_RAW
wire = socket.socket(socket.AF_PACKET, kind)
for source, target, text, mac in packets:
    ether = 0x86dd if ":" in source else 0x0800
    if tunnel:
        wire.sendto(packet(source, target, text), (link, ether))
    else:
        own = bytes.fromhex(open("/sys/class/net/%s/address" % link).read().strip().replace(":", ""))
        frame = bytes.fromhex(mac.replace(":", "")) + own + struct.pack(">H", ether) + packet(source, target, text)
        wire.sendto(frame, (link, 0))
"""
"""Sends a list of (source, target, payload, MAC address of the next hop) as UDP, whatever the sender's addresses are."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram with a source of the sender's choice."""

    source: str
    target: str
    text: str


def gateway_mac(bench: Workbench, container: str) -> str:
    """The MAC address of a container's gateway: its bridge's, on the node."""
    sandbox = bench.docker("inspect", "-f", "{{.State.Pid}}", container).strip()
    enter = ["nsenter", f"--net=/proc/{sandbox}/ns/net"]
    (route,) = json.loads(run(*enter, "ip", "-j", "route", "show", "default").stdout)
    bench.node.inside(container, "ping", "-c1", "-W5", route["gateway"])
    table = json.loads(run(*enter, "ip", "-j", "neigh", "show", route["gateway"]).stdout)
    return str(table[0]["lladdr"])


def forge_in(bench: Workbench, container: str, datagrams: Iterable[Datagram]) -> None:
    """Send from a container that has NET_RAW, in frames to its gateway."""
    mac = gateway_mac(bench, container)
    words = json.dumps([[each.source, each.target, each.text, mac] for each in datagrams])
    bench.docker("exec", container, "python3", "-c", FORGE, "eth0", words)


def forge_on(bench: Workbench, link: str, datagrams: Iterable[Datagram]) -> None:
    """Send from a node, as its root, straight into a link: no rule and no route of the node sees it."""
    words = json.dumps([[each.source, each.target, each.text, ""] for each in datagrams])
    run("ip", "netns", "exec", bench.node.spec.netns, "python3", "-c", FORGE, link, words)


class Capture:
    """A running capture: all that went over an interface so far."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def seen(self) -> bytes:
        """Everything, as it is in the file."""
        return self._file.read_bytes()

    def has(self, text: str) -> bool:
        """Whether a payload has been seen."""
        return text.encode() in self.seen

    def wait(self, text: str) -> None:
        """Return when a payload is there."""
        eventually(lambda: self.has(text), f"{text} to be captured", 30)

    @staticmethod
    def packed(address: str) -> bytes:
        """An address as it is in headers."""
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@contextlib.contextmanager
def capture(place: str | Path, file: Path, link: str = "any", what: str = "") -> Iterator[Capture]:
    """Capture in a namespace: its file, such as ``/run/netns/…`` or ``/proc/…/ns/net``; ``what`` is a filter.

    To a file and unbuffered, so that nobody needs to end it to see what there is.
    """
    words = ["nsenter", f"--net={place}", "tcpdump", "--immediate-mode", "-Z", "root", "-n", "-U", "-s", "0", "-i", link]
    with subprocess.Popen([*words, "-w", str(file), *what.split()], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            while b"listening on" not in process.stderr.readline():
                assert process.poll() is None, "tcpdump has ended"
            yield Capture(file)
        finally:
            process.terminate()


def of_node(bench: Workbench) -> Path:
    """A node's namespace."""
    return Path("/run/netns", bench.node.spec.netns)


def of_container(bench: Workbench, container: str) -> Path:
    """A container's namespace."""
    return Path("/proc", bench.docker("inspect", "-f", "{{.State.Pid}}", container).strip(), "ns/net")


def dropped(bench: Workbench, table: str, chain: str, comment: str) -> int:
    """How many packets a node's rule with this comment has dropped."""
    text = bench.exec("nft", "list", "chain", *table.split(), chain).stdout
    lines = [line.split() for line in text.splitlines() if f'"{comment}"' in line]
    return sum(int(words[words.index("packets") + 1]) for words in lines)


def udp_payloads(capture_file: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Source, target and payload of the UDP datagrams over IPv4 in a capture on one Ethernet link."""
    at = 24
    while at + 16 <= len(capture_file):
        (length,) = struct.unpack_from("<I", capture_file, at + 8)
        frame = capture_file[at + 16 : at + 16 + length]
        at += 16 + length
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            packet = frame[14:]
            start = (packet[0] & 15) * 4
            (size,) = struct.unpack_from(">H", packet, start + 4)
            source, target = (socket.inet_ntoa(packet[where : where + 4]) for where in (12, 16))
            yield source, target, packet[start + 8 : start + size]
