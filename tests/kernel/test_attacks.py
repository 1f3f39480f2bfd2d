"""Ways around the rules: frames that pass the bridge by, complaints about others' packets, ports taken in advance."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator

import pytest

from plugin import naming
from plugin.naming import RESOLVER6
from stackpad.metadata import METADATA6, METADATA_AND_DNS
from tests.kernel.frames import (
    A4,
    A6,
    B4,
    C4,
    GATEWAY,
    A,
    B,
    Bench,
    Wire,
    arrives,
    complaint,
    complaint6,
    dropped,
    ether,
    ip4,
    packet,
    packet6,
)  # fmt: skip
from tests.netns import Namespace, eventually, ip, run

RESERVED = [f"01:80:c2:00:00:{last:02x}" for last in range(16)]
"""Where IEEE 802.1D sends what no bridge passes on."""

GATEWAY4, OTHER_GATEWAY4, GATEWAY6, OTHER_GATEWAY6 = "10.192.1.1", "10.192.2.1", "fd00:1::1", "fd00:2::1"
DNS, OTHER = 53, 2000
NODE, CLIENT = "192.0.2.1", "192.0.2.2"


def listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A UDP socket that does not wait."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((address, port))
    return made


def heard(there: socket.socket) -> list[bytes]:
    """Everything that came in."""
    came: list[bytes] = []
    while True:
        try:
            came.append(there.recv(100))
        except BlockingIOError:
            return came


@pytest.fixture
def services(bench: Bench) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two servers of the node's: the DNS a container may ask, and another it may not."""
    with listening(socket.AF_INET, "0.0.0.0", DNS) as dns, listening(socket.AF_INET, "0.0.0.0", OTHER) as other:
        yield dns, other


async def asked(wire: Wire, dns: socket.socket) -> None:
    """Return when what the container sent until now has been through: a question it may ask has come behind it."""
    wire.send(ether(GATEWAY, A, 0x0800, packet(A4, GATEWAY4, b"<question>", (1000, DNS))))
    await eventually(lambda: heard(dns) == [b"<question>"], "the question to arrive")


@pytest.mark.parametrize("source", [A4, "10.192.1.9", C4])
async def test_a_reserved_address_is_no_way_to_the_node(
    bench: Bench, services: tuple[socket.socket, socket.socket], source: str
) -> None:
    _, a, _, _ = bench
    dns, other = services
    for to in RESERVED:
        for port in (OTHER, DNS):
            a.send(ether(to, A, 0x0800, packet(source, GATEWAY4, b"<evil>", (1000, port))))
    await asked(a, dns)
    assert heard(other) == []


async def test_the_bridge_believes_nobody_about_a_neighbours_mac(bench: Bench) -> None:
    made, a, b, _ = bench
    d = Wire(await made.container(5, 1))
    for to in (*RESERVED, B, GATEWAY, "ff:ff:ff:ff:ff:ff"):
        for kind in (0x0800, 0x0806, 0x86DD, 0x88CC):
            a.send(ether(to, B, kind, b"<mine>"))
    d.send(ether(B, "02:50:0a:c0:01:05", 0x0800, packet("10.192.1.5", B4, b"<letter>")))
    assert await arrives(b, "letter") == {"letter"}
    assert "letter" not in a.received()
    d.close()


async def test_the_bridge_remembers_nobody_it_was_not_told_of(bench: Bench) -> None:
    _, a, _, _ = bench
    before = known()
    for number in range(200):
        a.send(ether(RESERVED[number % 16], f"02:99:00:00:00:{number:02x}", 0x88CC, b""))
        a.send(ether(B, f"02:99:00:00:01:{number:02x}", 0x0800, packet(A4, B4, b"")))
    a.send(ether(B, A, 0x0800, packet(A4, B4, b"<end>")))
    await arrives(bench[2], "end")
    assert known() == before


def known() -> set[str]:
    """The MAC addresses the bridges know of."""
    return set(re.findall(r"^(\S+) dev spv\S+ master", run("bridge", "fdb", "show"), re.M))


async def test_the_node_tells_of_its_own_gateway_only(bench: Bench) -> None:
    """Neither what other networks there are, nor does it note a neighbour for each question."""
    _, a, _, _ = bench
    for number, to in enumerate(("ff:ff:ff:ff:ff:ff", *RESERVED)):
        a.send(ether(to, A, 0x0806, question(f"10.192.1.{100 + number}", OTHER_GATEWAY4)))
        a.send(ether(to, A, 0x0806, question(A4, OTHER_GATEWAY4)))
    a.send(ether("ff:ff:ff:ff:ff:ff", A, 0x0806, question(A4, GATEWAY4)))
    answers: set[str] = set()

    def answered() -> bool:
        answers.update(a.replies())
        return GATEWAY4 in answers

    await eventually(answered, "the gateway's answer")
    assert answers == {GATEWAY4}
    assert "10.192.1.10" not in ip("neigh", "show")


def question(asker: str, wanted: str) -> bytes:
    """Who has ``wanted``? Tell ``asker``, who is at A's MAC."""
    packed = [socket.inet_aton(address) for address in (asker, wanted)]
    return (
        struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes.fromhex(A.replace(":", "")) + packed[0] + bytes(6) + packed[1]
    )


async def test_a_complaint_about_somebody_elses_packet_is_not_heard(
    bench: Bench, services: tuple[socket.socket, socket.socket]
) -> None:
    """The node talks with C; A says that C's port is closed, and that the way there is narrow."""
    made, a, _, _ = bench
    dns, _ = services
    there = made.containers[2].call(lambda: listening(socket.AF_INET, C4, 7777))
    here = listening(socket.AF_INET, OTHER_GATEWAY4, 5555)
    here.connect((C4, 7777))
    here.send(b"hello")
    await eventually(lambda: heard(there) == [b"hello"], "the node's word to arrive")
    for _ in range(3):
        quoted = packet(OTHER_GATEWAY4, C4, b"hello", (5555, 7777))
        a.send(ether(GATEWAY, A, 0x0800, complaint(A4, OTHER_GATEWAY4, quoted)))
    await asked(a, dns)
    assert heard(here) == [], "an error would have been raised"
    there.close()
    here.send(b"anybody?")
    # C itself is believed.
    with pytest.raises(ConnectionRefusedError):
        await eventually(lambda: heard(here), "a refusal")
    here.close()


async def test_the_same_over_ipv6(bench: Bench, services: tuple[socket.socket, socket.socket]) -> None:
    made, a, _, _ = bench
    dns, _ = services
    c6 = "fd00:2::4"
    there = made.containers[2].call(lambda: listening(socket.AF_INET6, c6, 7777))
    here = listening(socket.AF_INET6, OTHER_GATEWAY6, 5555)
    here.connect((c6, 7777))
    here.send(b"hello")
    await eventually(lambda: heard(there) == [b"hello"], "the node's word to arrive")
    quoted = packet6(OTHER_GATEWAY6, c6, 17, struct.pack(">HHHH", 5555, 7777, 13, 0) + b"hello")
    for _ in range(3):
        a.send(ether(GATEWAY, A, 0x86DD, complaint6(A6, OTHER_GATEWAY6, quoted)))
    await asked(a, dns)
    assert heard(here) == [], "an error would have been raised"
    there.close()
    here.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        await eventually(lambda: heard(here), "a refusal")
    here.close()


async def test_a_route_of_the_senders_own_choice_is_not_followed(
    bench: Bench, services: tuple[socket.socket, socket.socket]
) -> None:
    _, a, _, c = bench
    dns, _ = services
    for kind in (0x83, 0x89):  # loose and strict source route (RFC 791): by the gateway to C
        options = bytes([kind, 7, 4]) + socket.inet_aton(C4) + b"\0"
        a.send(
            ether(GATEWAY, A, 0x0800, ip4(A4, GATEWAY4, 17, struct.pack(">HHHH", 1, 2, 8 + 8, 0) + b"<detour>", options))
        )
    await asked(a, dns)
    assert c.received() == set()


@pytest.fixture
def client(bench: Bench) -> Iterator[Namespace]:
    """Somebody outside, on a link of the node's."""
    outside = Namespace()
    ip("link", "add", "eth9", "type", "veth", "peer", "name", "eth0", "netns", outside.path)
    ip("addr", "add", f"{NODE}/24", "dev", "eth9")
    ip("link", "set", "eth9", "up")
    outside.run("ip", "addr", "add", f"{CLIENT}/24", "dev", "eth0")
    outside.run("ip", "link", "set", "eth0", "up")
    yield outside
    outside.close()


async def test_a_port_of_the_nodes_is_not_taken_by_sending_from_it(bench: Bench, client: Namespace) -> None:
    """Sent from the same port to a client's, a flow would take what the client sends to the node's server."""
    _, a, _, _ = bench
    server = listening(socket.AF_INET, "0.0.0.0", 51820)
    peer = client.call(lambda: listening(socket.AF_INET, CLIENT, 51820))
    a.send(ether(GATEWAY, A, 0x0800, packet(A4, CLIENT, b"<first>", (51820, 51820))))
    await eventually(lambda: heard(peer) == [b"<first>"], "the container's word to get out")
    peer.sendto(b"<secret>", (NODE, 51820))
    await eventually(lambda: heard(server) == [b"<secret>"], "the client's word to reach the node's server")
    assert "secret" not in a.received()
    server.close()
    peer.close()


@pytest.mark.parametrize("version", [4, 6])
async def test_a_containers_address_is_no_source_outside(bench: Bench, client: Namespace, version: int) -> None:
    """A neighbour of the node's speaks as C, to somebody C may have a flow with: told before flows are looked at."""
    _, a, _, _ = bench
    for link_name in ("all", "eth9"):
        run("sysctl", "-qw", f"net.ipv4.conf.{link_name}.rp_filter=0")
    wire = Wire(client)
    outside, node = (link("eth0", client), link("eth9"))
    udp = struct.pack(">HHHH", 1000, 2000, 8 + 8, 0) + b"<forged>"
    forged = packet(C4, A4, b"<forged>") if version == 4 else packet6("fd00:2::4", A6, 17, udp)
    wire.send(ether(node, outside, 0x0800 if version == 4 else 0x86DD, forged))
    await eventually(lambda: dropped("its source is elsewhere") > 0, "the forged packet to be counted")
    assert "forged" not in a.received()
    wire.close()


def link(name: str, where: Namespace | None = None) -> str:
    """The MAC address of a link."""
    words = ("ip", "-o", "link", "show", name)
    found = re.search(r"link/ether (\S+)", run(*words) if where is None else where.run(*words))
    assert found is not None
    return found[1]


async def test_the_resolver_is_asked_from_an_address_of_ones_network(bench: Bench) -> None:
    """By its link-local address a container of an internal network would not be known as one."""
    _, a, _, _ = bench
    ip("addr", "add", f"{RESOLVER6}/128", "dev", "lo", "nodad")
    # The kernel adds the route to a new IPv6 address by a worker of its own: what comes before that has no route.
    await eventually(lambda: ip("-6", "route", "show", "table", "local", RESOLVER6), "the resolver's route")
    with listening(socket.AF_INET6, RESOLVER6, DNS) as resolver:
        udp = struct.pack(">HHHH", 1000, DNS, 8 + 10, 0) + b"<question>"
        a.send(ether(GATEWAY, A, 0x86DD, packet6(str(naming.link_local(A)), RESOLVER6, 17, udp)))
        await eventually(lambda: dropped("who asks has an address of its network") > 0, "the question to be counted")
        assert heard(resolver) == []


async def test_what_goes_out_comes_back(bench: Bench, client: Namespace) -> None:
    """For comparison: the answer to a container's flow finds it."""
    _, a, _, _ = bench
    peer = client.call(lambda: listening(socket.AF_INET, CLIENT, 9999))
    a.send(ether(GATEWAY, A, 0x0800, packet(A4, CLIENT, b"<first>", (400, 9999))))
    asker: list[tuple[str, int]] = []

    def came() -> bool:
        try:
            asker.append(peer.recvfrom(100)[1])
        except BlockingIOError:
            return False
        return True

    await eventually(came, "the container's word to get out")
    peer.sendto(b"<answer>", asker[0])
    assert "answer" in await arrives(a, "answer")
    assert asker[0][0] == NODE
    peer.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "192.0.0.192", *METADATA6, METADATA_AND_DNS])
async def test_no_clouds_metadata_is_reached(bench: Bench, client: Namespace, address: str) -> None:
    """With a way there, which Azure's name server is open by."""
    _, a, _, _ = bench
    udp = struct.pack(">HHHH", 400, 80, 8 + 7, 0) + b"<first>"
    if ":" in address:
        ip("route", "add", f"{address}/128", "dev", "eth9")
        a.send(ether(GATEWAY, A, 0x86DD, packet6(A6, address, 17, udp)))
    else:
        ip("route", "add", f"{address}/32", "via", CLIENT)
        client.run("ip", "addr", "add", f"{address}/32", "dev", "lo")
        a.send(ether(GATEWAY, A, 0x0800, packet(A4, address, b"<first>", (400, 80))))
    await eventually(lambda: dropped("metadata") > 0, "the packet to be counted")
    if address == METADATA_AND_DNS:
        server = client.call(lambda: listening(socket.AF_INET, address, DNS))
        a.send(ether(GATEWAY, A, 0x0800, packet(A4, address, b"<asked>", (400, DNS))))
        await eventually(lambda: heard(server) == [b"<asked>"], "the question to be let through")
        server.close()
