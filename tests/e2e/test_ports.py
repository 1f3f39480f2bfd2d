"""Published ports as users know them, though Docker itself cannot show them."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.workbench import BRIEF, Target, Workbench, eventually

DUAL = ("--ipv6", "--ipam-driver", "stackpad")


@pytest.fixture
def web(bench: Workbench) -> Workbench:
    """A dual-stack network."""
    bench.network("shop", *DUAL)
    return bench


@pytest.mark.replay("S6", "S30")
def test_from_everywhere(web: Workbench) -> None:
    """Outside, node, the node's loopback, another network, the same network, the container itself; TCP and UDP."""
    node = web.node
    web.serve("server", "shop", "--publish", "8080:80", "--publish", "8080:80/udp")
    web.network("other", *DUAL)
    web.start("elsewhere", "other")
    web.docker("network", "create", "dockers-own")
    web.start("docker", "dockers-own")
    web.start("beside", "shop")
    for kind in ("tcp", "udp"):
        four, six = Target(kind, node.address, 8080), Target(kind, node.address6, 8080)
        loopback = Target(kind, "127.0.0.1", 8080)
        assert all(answer.startswith("server ") for answer in web.ask_from_outside(four, six)), kind
        assert all(answer.startswith("server ") for answer in web.ask_from_node(four, six, loopback)), kind
        for who in ("elsewhere", "beside", "server"):
            assert all(answer.startswith("server ") for answer in web.ask(who, [four, six])), (kind, who)
        assert web.ask("docker", [four])[0].startswith("server "), kind
    (seen,) = {
        answer.split()[1].removeprefix("::ffff:") for answer in web.ask_from_outside(Target("tcp", node.address, 8080))
    }
    assert seen == web.bed.plan.gateway, "the server must see who asks"


@pytest.mark.replay("S6")
def test_not_through_a_containers_address_or_another_gateway(web: Workbench) -> None:
    address = web.serve("server", "shop", "--publish", "8080:80")
    web.network("other", *DUAL)
    web.start("elsewhere", "other")
    gateways = [str(g).partition("/")[0] for row in web.admin("/networks") for g in row["gateways"]]
    refused = [Target("tcp", address, 80), *(Target("tcp", gateway, 8080) for gateway in gateways)]
    assert web.cut_off("elsewhere", *refused)
    route = ["ip", "-n", web.outside, "route", "replace", f"{address}/32", "via", web.node.address]
    subprocess.run(route, check=True)
    try:
        assert not any(web.ask_from_outside(Target("tcp", address, 80), Target("icmp", address), patience=BRIEF))
    finally:
        subprocess.run(["ip", "-n", web.outside, "route", "del", f"{address}/32"], check=True)


def test_on_one_host_address_only(web: Workbench) -> None:
    node = web.node
    web.serve("local", "shop", "--publish", "127.0.0.1:8081:80")
    web.serve("one", "shop", "--publish", f"{node.address}:8082:80", "--publish", f"[{node.address6}]:8082:80")
    assert web.ask_from_node(Target("tcp", "127.0.0.1", 8081))[0].startswith("local ")
    assert not any(web.ask_from_outside(Target("tcp", node.address, 8081), patience=BRIEF))
    asked = (Target("tcp", node.address, 8082), Target("tcp", node.address6, 8082))
    assert all(answer.startswith("one ") for answer in web.ask_from_outside(*asked))
    assert not any(web.ask_from_node(Target("tcp", "127.0.0.1", 8082), patience=BRIEF))


def test_ranges_and_random_ports(web: Workbench) -> None:
    web.serve("first", "shop", "--publish", "8090-8092:80")
    web.serve("second", "shop", "--publish", "8090-8092:80")
    web.serve("third", "shop", "--publish", "80")
    eventually(lambda: {row["container"] for row in web.ports()} == {"first", "second", "third"}, "names of containers")
    chosen = {str(row["container"]): int(str(row["host_port"])) for row in web.ports()}
    assert {chosen["first"], chosen["second"]} < {8090, 8091, 8092}
    assert chosen["third"] > 1024
    for name, port in chosen.items():
        assert web.ask_from_outside(Target("tcp", web.node.address, port))[0].startswith(f"{name} ")


def test_a_taken_port_fails_with_a_sentence_and_leaves_nothing(web: Workbench) -> None:
    web.serve("first", "shop", "--publish", "8080:80")
    before = web.links()
    done = web.try_docker("run", "--detach", "--name", "second", "--network", "shop", "-p", "8080:80", "stackpad/test")
    assert done.returncode != 0
    assert "port 8080/tcp of this node is taken by container first" in done.stderr
    assert "publish another" in done.stderr
    eventually(lambda: web.links() == before, "the second's link to go")
    with web.node_service(8085):
        done = web.try_docker("run", "--detach", "--network", "shop", "-p", "8085:80", "stackpad/test")
        assert "taken by another program" in done.stderr
    web.docker("run", "--detach", "--name", "bridged", "-p", "8086:80", "stackpad/test", "sleep", "infinity")
    done = web.try_docker("run", "--detach", "--network", "shop", "-p", "8086:80", "stackpad/test")
    assert "port 8086/tcp" in done.stderr
    done = web.try_docker("run", "--detach", "-p", "8080:80", "stackpad/test", "sleep", "infinity")
    assert done.returncode != 0, "Docker's own bridge must see our port as taken, too"


@pytest.mark.parametrize(
    ("publish", "words"),
    [
        ("203.0.113.9:8080:80", "is not an address of this node"),
        ("8080:80/sctp", "cannot be published"),
        ("[::1]:8080:80", "cannot be published on [::1]"),
    ],
)
def test_what_cannot_be_published(web: Workbench, publish: str, words: str) -> None:
    done = web.try_docker("run", "--detach", "--network", "shop", "--publish", publish, "stackpad/test")
    assert done.returncode != 0
    assert words in done.stderr
    assert not web.ports()


def test_free_again_after_stop_and_kept_over_restart(web: Workbench) -> None:
    web.serve("server", "shop", "--publish", "8080:80")
    web.docker("restart", "--time", "1", "server")
    web.wait_listening("server")
    assert web.ask_from_outside(Target("tcp", web.node.address, 8080))[0].startswith("server ")
    web.docker("stop", "--time", "1", "server")
    assert not web.ports()
    web.serve("successor", "shop", "--publish", "8080:80")
    assert web.ask_from_outside(Target("tcp", web.node.address, 8080))[0].startswith("successor ")


CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 40123)); s.settimeout(2); s.connect((sys.argv[1], 8080))
for line in sys.stdin:
    try:
        s.send(b"hello"); print(s.recv(100).decode(), flush=True)
    except OSError as error:
        print("nothing", flush=True)
"""
"""Sends from one and the same port each time it is told to, and prints the answer."""


def test_a_udp_flow_follows_the_container(web: Workbench) -> None:
    """A client that keeps sending from one port reaches the container that is there now, not one that was."""
    words = ["ip", "netns", "exec", web.outside, "python3", "-c", CLIENT, web.node.address]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def ask() -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            return client.stdout.readline()

        assert not ask().startswith("old "), "nobody is there yet, and the flow exists"
        web.serve("old", "shop", "--publish", "8080:80/udp")
        eventually(lambda: ask().startswith("old "), "the first container")
        web.docker("rm", "--force", "old")
        web.serve("filler", "shop")
        web.serve("new", "shop", "--publish", "8080:80/udp")
        eventually(lambda: ask().startswith("new "), "the second container")
        client.stdin.close()
