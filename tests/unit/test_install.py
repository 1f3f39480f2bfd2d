"""What the ingress's container is given of the host: no directory of the engine's socket, and none of the plugin's."""

from __future__ import annotations

import re

import pytest

from tests.testbed.shell import ROOT, Failed
from tools.install import CADDY_ADMIN, ENGINE_SHOWN, USER, ingress_mounts

OWN = [
    "/run/stackpad/ingress:/run/stackpad/ingress", "/var/lib/stackpad/ingress:/var/lib/stackpad/ingress",
    "/run/stackpad/web:/run/stackpad/web:ro", "/run/stackpad/view:/run/stackpad/view:ro",
]  # fmt: skip


@pytest.mark.parametrize(
    ("admin", "directories"),
    [
        (CADDY_ADMIN, ["/run/caddy"]), ("/var/run/caddy/admin.sock", ["/var/run/caddy"]),
        ("/srv/caddy/admin.sock", ["/srv/caddy"]), ("//run/caddy//admin.sock", ["/run/caddy"]),
        ("/run/stackpad/caddy/admin.sock", ["/run/stackpad/caddy"]), ("/run/stackpad/ingress/caddy/admin.sock", []),
    ],
)  # fmt: skip
def test_the_ingress_has_the_directory_of_caddys_socket(admin: str, directories: list[str]) -> None:
    assert ingress_mounts(admin) == [*OWN, *(f"{directory}:{directory}" for directory in directories)]


@pytest.mark.parametrize("admin", ["/run/caddy.sock", "/caddy.sock", "/var/run/caddy.sock", "//run/caddy.sock"])
def test_it_is_not_given_the_engines_socket_with_it(admin: str) -> None:
    with pytest.raises(Failed, match="with the engine's socket, which the ingress is not to have"):
        ingress_mounts(admin)


@pytest.mark.parametrize(
    "admin",
    ["/run/stackpad/caddy.sock", "/var/run/stackpad/caddy.sock", "/var/lib/stackpad/caddy.sock", "/var/lib/caddy.sock"],
)
def test_it_is_not_given_what_is_the_plugins_with_it(admin: str) -> None:
    with pytest.raises(Failed, match="with what is the plugin's, which the ingress is not to have"):
        ingress_mounts(admin)


@pytest.mark.parametrize("admin", ["admin.sock", "caddy/admin.sock", "/run/caddy/../admin.sock"])
def test_a_path_is_one(admin: str) -> None:
    with pytest.raises(Failed, match="is not an absolute path"):
        ingress_mounts(admin)


@pytest.mark.parametrize("example", ["caddy-on-host", "caddy-in-container"])
def test_the_examples_mount_the_same(example: str) -> None:
    text = (ROOT / "examples" / example / "compose.yaml").read_text()
    service = text.partition("\n  ingress:\n")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^ +- (/\S+)", service, re.MULTILINE)) == sorted(ingress_mounts(CADDY_ADMIN))
    assert f"DOCKER_HOST: unix://{ENGINE_SHOWN}\n" in service
    assert f'user: "{USER}"' in service
    caddy = text.partition("\n  caddy:\n")[2].partition("\n\n")[0]
    assert f'user: "{USER}"' in caddy or not caddy, "of root's group it reaches the cluster's store for the ingress"
    assert f"VIEW_SOCKET: {ENGINE_SHOWN}\n" in text.partition("\n  view:\n")[2].partition("\n\n")[0]
