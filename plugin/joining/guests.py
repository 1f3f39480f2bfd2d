"""Those who may join through this node: the tokens it has given out, on its disk.

A guest has a key pair and one address in the tunnel, and with it reaches the join service here and nothing else. It
stays a peer until its token expires, used or not, so that a token used twice is told so instead of being met by silence.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import structlog

from plugin.joining import tokens
from plugin.model import IPAddress, IPNet
from plugin.ranges import blocks
from plugin.store.mesh import Guest
from stackpad import files, jsontext
from stackpad.errors import Conflict, InvalidRequest, NotFound, Unavailable

TAKEN_BACK = "the token was taken back just now; make a new one with stackpad node token"


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """One token given out. ``used_by`` is the node that came with it, by its public key; ``node`` its id.

    ``admitted`` says that this node has its place: the token is not taken back any more. ``member`` says that it was seen
    as a member after that: from then on the token is good for nothing.
    """

    id: str
    digest: str
    public_key: str
    preshared_key: str
    address: str
    expires: float
    used_by: str = ""
    node: str = ""
    admitted: bool = False
    member: bool = False

    def __repr__(self) -> str:
        """Without the preshared key."""
        return f"Invitation(id={self.id!r}, expires={self.expires!r}, node={self.node!r})"


class Guests:
    """The invitations by token id; every change is on disk before it counts."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "guests.json"
        self._all: dict[str, Invitation] = {}
        self.problem = ""
        try:
            kept = jsontext.decode(self._path.read_bytes(), type=dict[str, Invitation])
            for item in kept.values():
                ipaddress.IPv4Address(item.address)
            self._all = kept
        except FileNotFoundError:
            pass
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            # Nothing but those tokens depends on it, and the next one given out writes it anew.
            self.problem = (
                f"{self._path} cannot be read: {error}; tokens that this node has given out are void, make new ones with "
                "stackpad node token"
            )
            structlog.get_logger("guests").error("the tokens given out are lost", reason=self.problem)

    def peers(self, now: float) -> list[Guest]:
        """The guests whose tokens have not expired."""
        return [
            Guest(item.public_key, item.preshared_key, ipaddress.ip_address(item.address), item.expires)
            for item in self._all.values()
            if item.expires > now
        ]

    def has(self, address: str, now: float) -> bool:
        """Whether a guest whose token has not expired has this address in the tunnel."""
        return any(item.address == address and item.expires > now for item in self._all.values())

    def listed(self, now: float) -> list[Mapping[str, object]]:
        """Tokens that are still good or were used, for a person to read."""
        return [
            {"id": item.id, "expires": item.expires, "used_by": item.node or None}
            for item in self._all.values()
            if item.expires > now
        ]

    def next_address(self, block: IPNet, network_prefix: int, now: float) -> IPAddress:
        """A free address for another guest."""
        taken: Collection[IPAddress] = {guest.address for guest in self.peers(now)}
        return blocks.guest_address(block, taken, network_prefix)

    def add(self, invitation: Invitation, now: float) -> None:
        """Keep a new one, and forget those that have expired."""
        kept = {key: item for key, item in self._all.items() if item.expires > now}
        self._keep({**kept, invitation.id: invitation})

    def remove(self, token_id: str) -> None:
        """Take a token back; raises :class:`NotFound`, or :class:`Conflict` if a node is in with it."""
        found = self._all.get(token_id)
        if found is None:
            raise NotFound(
                f"there is no token {ascii(token_id)[:40]} of this node; stackpad node token --list shows them"
            )
        if found.admitted:
            raise Conflict(
                f"token {token_id} is good for nothing any more: node {found.node} is in with it; stackpad node rm "
                f"{found.node} takes that one out again"
            )
        self._keep({key: item for key, item in self._all.items() if key != token_id})

    def void(self) -> int:
        """Forget the tokens that nobody has used: they name a key that this node has not any more. Returns how many."""
        kept = {key: item for key, item in self._all.items() if item.used_by}
        number = len(self._all) - len(kept)
        if number:
            self._keep(kept)
        return number

    def check(self, request: tokens.JoinRequest, address: str, members: Collection[str]) -> Invitation:
        """The invitation that a request from ``address`` (in the tunnel) came with; refuses a used or wrong one.

        ``members`` are the ids of nodes that are, or were, part of the cluster.
        """
        found = self._all.get(request.token)
        now = time.time()
        if found is None or found.digest != request.digest or found.address != address:
            raise InvalidRequest("the token is not one of this node's; make a new one with stackpad node token")
        if found.expires <= now:
            raise InvalidRequest("the token has expired; make a new one with stackpad node token")
        # A node whose first answer got lost asks once more; one that has been a member since needs another token.
        if found.used_by and (found.member or found.used_by != request.public_key or found.node in members):
            raise InvalidRequest(
                f"the token was used already, by node {found.node}; a token is for one node, make another one with "
                "stackpad node token"
            )
        return found

    def use(self, invitation: Invitation, public_key: str, node: str) -> Invitation:
        """Mark it as used; refuses one that is not as it was when it was checked, which may be seconds ago."""
        used = msgspec.structs.replace(invitation, used_by=public_key, node=node)
        self._replace(invitation, used)
        return used

    def admit(self, token_id: str, node: str) -> None:
        """The node that used it has its place; refuses a token that was taken back meanwhile."""
        found = self._all.get(token_id)
        if found is None or found.node != node:
            raise InvalidRequest(TAKEN_BACK)
        self._replace(found, msgspec.structs.replace(found, admitted=True))

    def meet(self, members: Collection[str]) -> None:
        """``members`` give a sign of life: those that came with a token from here have got their answer.

        Whoever finds the token later, while that node is off, cannot ask for its place and be told the cluster's secret.
        """
        met = {
            key: msgspec.structs.replace(item, member=True)
            for key, item in self._all.items()
            if item.node in members and not item.member
        }
        if met:
            # A full disk is told by others, and what is not kept now is tried at the next node's sign of life.
            with contextlib.suppress(Unavailable):
                self._keep({**self._all, **met})

    def _replace(self, before: Invitation, after: Invitation) -> None:
        if self._all.get(before.id) != before:
            raise InvalidRequest(TAKEN_BACK)
        self._keep({**self._all, after.id: after})

    def _keep(self, kept: dict[str, Invitation]) -> None:
        files.replace(self._path, msgspec.json.encode(kept))
        self._all, self.problem = kept, ""
