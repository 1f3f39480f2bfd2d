"""What a node keeps of its cluster on its own disk: who it is there, and what it last knew of the others.

With it a node that starts while the store is away has its tunnels, ranges and rules at once. Two files next to the
state, each replaced as a whole (write, sync, rename): ``membership.json``, which only joining, leaving and new ranges
change, and ``view.json``, a copy of the store.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from plugin.model import IPNet, ip_network
from stackpad import files, jsontext, records
from stackpad.errors import InvalidRequest, Unavailable

SCHEMA = 1
"""Version of the layout of ``membership.json``; a newer one is refused, fields that are not known are kept."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """This node's place in a cluster.

    ``secret`` is the cluster's, base64; the pairs' preshared keys follow from it. ``store`` are the addresses of an etcd,
    empty on the node that runs the embedded one. On the node that began the cluster (``control``) with one of the
    operator's they are those of the setting ``STORE``, so that a plugin installed anew without it does not begin an empty
    one. ``ranges`` are what this node holds, its own record of them: the store may be wiped. ``mesh4`` and ``mesh6`` are
    its addresses in the tunnel. ``nat`` says that others cannot call this node; ``gateway`` is the node it joined
    through, for as long as the store has not named it.
    """

    node: str
    name: str
    cluster: records.Cluster
    secret: str
    mesh4: str
    mesh6: str
    control: bool = False
    store: tuple[str, ...] = ()
    ranges: tuple[records.Range, ...] = ()
    nat: bool = False
    joined: float = 0.0
    gateway: records.Node | None = None
    gateway_ranges: tuple[records.Range, ...] = ()
    schema: int = SCHEMA

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Membership(node={self.node!r}, name={self.name!r}, cluster={self.cluster.id!r})"

    def embeds(self, set_: Sequence[str]) -> bool:
        """Whether this node runs the cluster's store; ``set_`` are the addresses of one in the settings."""
        return self.control and not set_ and not self.store

    @property
    def key(self) -> bytes:
        """The cluster's secret."""
        return base64.b64decode(self.secret)

    def blocks(self, version: int) -> list[IPNet]:
        """This node's blocks of one family, the first one first."""
        return [net for r in self.ranges if r.block and not r.freed and (net := ip_network(r.net)).version == version]

    def held(self) -> list[IPNet]:
        """Everything this node holds."""
        return [ip_network(r.net) for r in self.ranges if not r.freed]


class Memory:
    """The two files; blocking, each write a few milliseconds."""

    def __init__(self, directory: Path) -> None:
        self._membership, self._view = directory / "membership.json", directory / "view.json"
        self._former = directory / "former"

    def load(self) -> Membership | None:
        """The membership, ``None`` on a node of its own; raises :class:`Unavailable` if the file is damaged."""
        try:
            return _checked(jsontext.decode(self._membership.read_bytes(), type=Membership))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, InvalidRequest, msgspec.MsgspecError) as error:
            raise Unavailable(
                f"{self._membership} cannot be read: {error}; restore it, or move it away to join the cluster again "
                "(stackpad node join), and start the plugin anew"
            ) from error

    def save(self, membership: Membership | None) -> None:
        """Keep or, with ``None``, forget the membership; raises :class:`Unavailable`."""
        if membership is None:
            before = self.load()
            if before is not None:
                files.replace(self._former, before.node.encode())
            files.remove(self._membership)
            files.remove(self._view)
        else:
            try:
                there: bytes | None = self._membership.read_bytes()
            except OSError:
                there = None
            files.replace(self._membership, records.keep(msgspec.to_builtins(membership), there))

    def former(self) -> str:
        """The id this node had when it was last in a cluster; empty if it never was."""
        try:
            return self._former.read_text()
        except OSError:
            return ""

    def load_view(self) -> dict[str, bytes]:
        """The store as it was last seen; empty if that is not known, or the copy is damaged."""
        try:
            return jsontext.decode(self._view.read_bytes(), type=dict[str, bytes])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            # The store has all of it; but where the tunnel to it is no longer as it was at the join, a person must help.
            log = structlog.get_logger("store")
            log.error("the last view of the store is lost", file=str(self._view), reason=str(error))
            return {}

    def save_view(self, raw: Mapping[str, bytes]) -> None:
        """Keep the store as it is seen now; values are bytes, not all of them JSON, and so in base64."""
        files.replace(self._view, msgspec.json.encode(raw))


def _checked(membership: Membership) -> Membership:
    """``membership`` if all that is kept as text in it is what it should be; raises otherwise."""
    if membership.schema > SCHEMA:
        raise InvalidRequest(
            f"it was written by a newer version of the plugin (layout {membership.schema}, known is {SCHEMA})"
        )
    place = records.Node(
        owner=membership.node, name=membership.name, public_keys=(), mesh4=membership.mesh4, mesh6=membership.mesh6
    )
    gateway = () if membership.gateway is None else (membership.gateway,)
    for record in (membership.cluster, place, *gateway, *membership.ranges, *membership.gateway_ranges):
        records.check(record)
    records.key(records.NODES, membership.node)
    base64.b64decode(membership.secret, validate=True)
    return membership
