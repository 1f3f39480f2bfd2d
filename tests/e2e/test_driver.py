"""Networks as Docker's own bridge driver has them: options, addresses, attachments, Compose; and what is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.workbench import Target, Workbench, eventually, everything
from tests.testbed import images


@pytest.mark.parametrize("driver", ["stackpad", "stackpad/net:latest"])
def test_both_names_of_the_driver(bench: Workbench, driver: str) -> None:
    for ipam in ((), ("--ipam-driver", driver)):
        name = f"net-{len(ipam)}"
        bench.network(name, *ipam, driver=driver)
        address = bench.serve(f"server-{name}", name)
        bench.start(f"client-{name}", name)
        assert bench.reaches(f"client-{name}", *everything(address))


def test_subnet_gateway_range_and_fixed_addresses(bench: Workbench) -> None:
    bench.network(
        "fixed", "--subnet", "10.44.0.0/24", "--gateway", "10.44.0.254", "--ip-range", "10.44.0.128/26",
        "--aux-address", "printer=10.44.0.129", "--ipv6", "--subnet", "fd44::/64",
    )  # fmt: skip
    bench.start("any", "fixed")
    assert bench.node.address_of("any", "fixed") in {f"10.44.0.{last}" for last in range(128, 192)} - {"10.44.0.129"}
    bench.start("chosen", "fixed", "--ip", "10.44.0.7", "--ip6", "fd44::77", "--mac-address", "02:11:22:33:44:55")
    shown = bench.docker("exec", "chosen", "ip", "addr", "show", "eth0")
    assert "10.44.0.7/24" in shown
    assert "fd44::77/64" in shown
    assert "02:11:22:33:44:55" in shown
    assert "default via 10.44.0.254" in bench.docker("exec", "chosen", "ip", "route")
    assert bench.reaches("any", Target("icmp", "10.44.0.7"), Target("icmp", "fd44::77"))


def test_a_taken_address_is_refused(bench: Workbench) -> None:
    bench.network("own", "--ipam-driver", "stackpad", "--subnet", "10.45.0.0/24", "--aux-address", "x=10.45.0.9")
    bench.start("first", "own", "--ip", "10.45.0.5")
    for address, holder in (("10.45.0.5", "endpoint"), ("10.45.0.1", "gateway"), ("10.45.0.9", "aux-address")):
        done = bench.try_docker("run", "--network", "own", "--ip", address, images.TEST, "true")
        assert done.returncode != 0
        assert address in done.stderr
        assert holder in done.stderr
    assert bench.reaches("first", Target("icmp", "198.51.100.1")), "the first keeps its address"


@pytest.mark.replay("S9")
def test_connecting_what_does_not_run(bench: Workbench) -> None:
    """The address that was asked for is there when it starts, and after it was stopped; a refusal changes nothing."""
    for name, subnet in (("front", "10.46.0.0/24"), ("back", "10.47.0.0/24")):
        bench.network(name, "--subnet", subnet)
    bench.docker("create", "--name", "app", "--network", "front", images.TEST, "sleep", "infinity")
    bench.docker("network", "connect", "--ip", "10.47.0.9", "back", "app")
    for _ in range(2):
        bench.docker("start", "app")
        assert bench.node.address_of("app", "back") == "10.47.0.9"
        assert "10.47.0.9/24" in bench.docker("exec", "app", "ip", "addr")
        bench.docker("kill", "app")
    bench.start("other", "front", "--ip", "10.46.0.9")
    before = _attached(bench, "other"), bench.docker("exec", "other", "ip", "-o", "addr")
    bench.docker("start", "app")
    assert bench.try_docker("network", "connect", "--ip", "10.47.0.9", "back", "other").returncode != 0
    assert (_attached(bench, "other"), bench.docker("exec", "other", "ip", "-o", "addr")) == before
    (back,) = (network for network in bench.admin("/networks") if network["environment"] == "back")
    assert [endpoint["addresses"] for endpoint in back["endpoints"]] == [["10.47.0.9"]]


def _attached(bench: Workbench, container: str) -> dict[str, Any]:
    """The container's endpoints. Of a network it was refused, the engine keeps the wish, whatever its driver."""
    networks = json.loads(bench.docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
    return {name: there for name, there in networks.items() if there["EndpointID"]}


def test_mtu_internal_and_egress(bench: Workbench) -> None:
    bench.network("small", "--opt", "com.docker.network.driver.mtu=1300")
    bench.start("small", "small")
    assert bench.docker("exec", "small", "cat", "/sys/class/net/eth0/mtu").strip() == "1300"
    bench.network("quiet", "--opt", "stackpad.egress=false")
    bench.serve("quiet", "quiet", "--publish", "8088:80")
    assert bench.cut_off("quiet", Target("icmp", "198.51.100.1"))
    assert bench.ask_from_outside(Target("tcp", bench.node.address, 8088))[0].startswith("quiet ")
    bench.network("inner", "--internal")
    bench.start("inner", "inner")
    assert "default" not in bench.docker("exec", "inner", "ip", "route")


@pytest.mark.replay("S8", "S9")
def test_several_networks_and_connecting_while_running(bench: Workbench) -> None:
    for name in ("front", "back"):
        bench.network(name)
    database = bench.serve("database", "back")
    bench.start("app", "front")
    assert bench.cut_off("app", *everything(database))
    bench.docker("network", "connect", "--alias", "worker", "back", "app")
    assert bench.reaches("app", *everything(database))
    bench.start("peer", "back")
    worker = bench.node.address_of("app", "back")
    resolved = bench.docker("exec", "peer", "python3", "-c", "import socket; print(socket.gethostbyname('worker'))")
    assert resolved.strip() == worker
    bench.docker("network", "disconnect", "back", "app")
    assert bench.cut_off("app", *everything(database))
    eventually(lambda: len(bench.admin("/networks")) == 2, "two networks")
    bench.docker("network", "connect", "back", "app")
    assert bench.reaches("app", *everything(database))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--opt", "stackpad.egres=false"), "did you mean stackpad.egress?"),
        (("--opt", "stackpad.egress=maybe"), "neither true nor false"),
        (("--opt", "stackpad.environment=Not A Name"), "is not a name"),
        (("--opt", "com.docker.network.driver.mtu=12"), "between 576 and 65535"),
        (("--subnet", "10.89.0.0/16"), "device eth0"),
        (("--ipam-driver", "stackpad", "--subnet", "172.17.0.0/24"), "device docker0"),
        (("--subnet", "198.51.100.0/24"), "198.51.100.0/24 is no private range"),
        (("--ipam-driver", "stackpad", "--subnet", "64.0.0.0/4"), "setting NETWORK_RANGES"),
        (("--ipam-driver", "stackpad", "--subnet", "169.254.7.0/24"), "a meaning of its own"),
    ],
)
def test_what_is_refused_says_why_and_leaves_nothing(bench: Workbench, options: tuple[str, ...], words: str) -> None:
    before = bench.links()
    done = bench.try_docker("network", "create", "--driver", "stackpad", *options, "refused")
    assert done.returncode != 0
    assert words in done.stderr
    assert bench.links() == before
    assert not bench.admin("/networks")
    bench.network("afterwards")


def test_a_range_of_another_network_is_refused(bench: Workbench) -> None:
    bench.network("first", "--subnet", "10.46.0.0/16", "--opt", "stackpad.environment=shop-production")
    for ipam in ((), ("--ipam-driver", "stackpad")):
        for subnet in ("10.46.0.0/16", "10.46.7.0/24", "10.0.0.0/8"):
            done = bench.try_docker("network", "create", "-d", "stackpad", *ipam, "--subnet", subnet, "second")
            assert done.returncode != 0, subnet
    bench.start("still", "first")
    assert bench.reaches("still", Target("icmp", "198.51.100.1"))


def test_dynamic_pools_do_not_overlap_and_come_back(bench: Workbench) -> None:
    names = [f"pool-{index}" for index in range(8)]
    processes = [
        subprocess.Popen(
            [
                "docker",
                "-H",
                bench.node.docker_host,
                "network",
                "create",
                "-d",
                "stackpad",
                "--ipam-driver",
                "stackpad",
                n,
            ],
            stdout=subprocess.DEVNULL,
        )
        for n in names
    ]
    assert [process.wait(60) for process in processes] == [0] * len(names)
    ranges = [row["subnets"] for row in bench.admin("/networks")]
    assert len({str(subnets) for subnets in ranges}) == len(names)


def test_what_the_command_line_says_of_a_node_of_its_own(bench: Workbench) -> None:
    """Names are Docker's own where there is no cluster; they are listed, and ways are explained to their end."""
    for name in ("shop-production", "shop-staging"):
        bench.network(name)
        bench.serve(f"{name}-db", name, "--network-alias", "postgres")
    bench.start("asks", "shop-production")

    def stackpad(*words: str) -> list[dict[str, Any]]:
        return list(json.loads(bench.node.stackpad(*words, "--json", check=False).stdout))

    def named() -> dict[str, str]:
        rows = stackpad("services")
        return {row["container"]: row["environment"] for row in rows if "postgres" in row["names"]}

    eventually(lambda: len(named()) == 2, "both names")
    assert named() == {"shop-production-db": "shop-production", "shop-staging-db": "shop-staging"}
    assert [row["container"] for row in stackpad("services", "shop-staging")] == ["shop-staging-db"]
    steps = stackpad("explain", "asks", "postgres")
    assert steps[-1]["name"] == "to"
    assert all(step["ok"] is not False for step in steps), steps
    assert bench.docker("exec", "asks", "getent", "hosts", "postgres").split()[0] in steps[1]["text"]
    steps = stackpad("explain", "asks", "shop-staging-db")
    assert (steps[-1]["name"], steps[-1]["ok"]) == ("environment", False)
    done = bench.node.stackpad("doctor", check=False)
    assert done.returncode == 2, "from outside it would look at another machine than the plugin's"
    assert "is of a plugin in another network namespace" in " ".join(done.stderr.split())


@pytest.mark.replay("S32")
def test_compose(bench: Workbench, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        json.dumps(
            {
                "version": "2.4",
                "services": {
                    "web": {"image": images.TEST, "command": ["sleep", "infinity"], "networks": ["default"]},
                    "postgres": {"image": images.TEST, "command": ["sleep", "infinity"], "networks": ["default"]},
                },
                "networks": {"default": {"driver": "stackpad", "driver_opts": {"stackpad.egress": "false"}}},
            }
        )
    )
    compose = ["docker-compose", "--host", bench.node.docker_host, "--project-name", "shop", "--file", str(file)]
    subprocess.run([*compose, "up", "--detach"], check=True, capture_output=True)
    try:
        web = bench.docker("ps", "--quiet", "--filter", "label=com.docker.compose.service=web").strip()
        assert bench.reaches(web, Target("icmp", bench.node.address))
        assert bench.node.inside(web, "ping", "-c1", "-W1", "postgres")[0] == 0
        assert bench.cut_off(web, Target("icmp", "198.51.100.1"))
    finally:
        subprocess.run([*compose, "down", "--timeout", "1"], check=True, capture_output=True)
