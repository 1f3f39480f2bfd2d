"""The roles of an etcd with users, as the commands that make them."""

from __future__ import annotations

import pytest

from stackpad import records, roles
from stackpad.errors import InvalidRequest

NODE = [
    "etcdctl role add stackpad-n1",
    "etcdctl role grant-permission stackpad-n1 readwrite /stackpad/1/nodes/n1",
    "etcdctl role grant-permission stackpad-n1 readwrite /stackpad/1/alive/n1",
    "etcdctl role grant-permission stackpad-n1 readwrite /stackpad/1/ingresses/n1",
    "etcdctl role grant-permission --prefix=true stackpad-n1 readwrite /stackpad/1/networks/n1/",
    "etcdctl role grant-permission --prefix=true stackpad-n1 readwrite /stackpad/1/endpoints/n1/",
    "etcdctl role grant-permission --prefix=true stackpad-n1 readwrite /stackpad/1/web/n1/",
]
SHARED = [
    "etcdctl role add stackpad-node",
    "etcdctl role grant-permission --prefix=true stackpad-node read /stackpad/1/",
    "etcdctl role grant-permission --prefix=true stackpad-node readwrite /stackpad/1/ranges/",
    "etcdctl role grant-permission stackpad-node readwrite /stackpad/1/ranges-lock",
    "etcdctl role add stackpad-control",
    "etcdctl role grant-permission --prefix=true stackpad-control readwrite /stackpad/1/",
    "etcdctl role add stackpad-ingress",
    "etcdctl role grant-permission --prefix=true stackpad-ingress readwrite /stackpad/1/hosts/",
]


@pytest.mark.parametrize(
    ("user", "grant"),
    [
        ("worker-1", "etcdctl user grant-role worker-1 stackpad-n1"),
        ("a; reboot", "etcdctl user grant-role 'a; reboot' stackpad-n1"),
    ],
)
def test_a_nodes_role(user: str, grant: str) -> None:
    assert roles.node_commands("n1", user) == [*NODE, grant]


def test_the_shared_roles() -> None:
    assert roles.shared_commands() == SHARED


def test_no_node_is_below_another_ones() -> None:
    """That ``n1`` is the beginning of ``n10`` gives it nothing."""
    other = {records.key(kind, "n10", "x") for kind in records.PER_NODE}
    assert not [key for key in other for one in roles.own("n1") if one.prefix and key.startswith(one.key)]


@pytest.mark.parametrize("node", ["", "a/b", "a\n"])
def test_what_cannot_be_part_of_a_key_is_refused(node: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be part of a key"):
        roles.own(node)
