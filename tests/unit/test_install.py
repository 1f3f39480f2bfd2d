"""What the ingress's container is given of the host: never the directory that the engine's socket is in."""

from __future__ import annotations

import pytest

from tests.testbed.shell import Failed
from tools.install import CADDY_ADMIN, ingress_mounts

OWN = ["/run/stackpad", "/var/lib/stackpad"]


@pytest.mark.parametrize(
    ("admin", "directories"),
    [
        (CADDY_ADMIN, ["/run/caddy"]), ("/var/run/caddy/admin.sock", ["/var/run/caddy"]),
        ("/srv/caddy/admin.sock", ["/srv/caddy"]), ("//run/caddy//admin.sock", ["/run/caddy"]),
        ("/run/stackpad/caddy/admin.sock", []), ("/run/stackpad/admin.sock", []),
    ],
)  # fmt: skip
def test_the_ingress_has_the_directory_of_caddys_socket(admin: str, directories: list[str]) -> None:
    assert ingress_mounts(admin) == [*OWN, *directories]


@pytest.mark.parametrize("admin", ["/run/caddy.sock", "/caddy.sock", "/var/run/caddy.sock", "//run/caddy.sock"])
def test_it_is_not_given_the_engines_socket_with_it(admin: str) -> None:
    with pytest.raises(Failed, match="with the engine's socket, which the ingress is not to have"):
        ingress_mounts(admin)


@pytest.mark.parametrize("admin", ["admin.sock", "caddy/admin.sock", "/run/caddy/../admin.sock"])
def test_a_path_is_one(admin: str) -> None:
    with pytest.raises(Failed, match="is not an absolute path"):
        ingress_mounts(admin)
