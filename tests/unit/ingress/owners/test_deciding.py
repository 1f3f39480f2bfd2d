"""Who gets a name: a table of who asks, what was known, and what is decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ingress.owners.deciding import KEPT, KEPT_NETWORK, KEPT_PLATFORM, Ask, Decision, Standing, decide, until_free
from ingress.owners.ledger import Claim, How, Proof, Released, Ruling
from tests.clock import HOUR

A, B = "acme/a/production", "acme/b/production"
DNS = Proof(5.0, How.DNS)
NOW = 100.0


def ask(owner: str, node: str = "", path: str = "", service: str = "web", network: str | None = "") -> Ask:
    return Ask(owner, path, service, node, network)


def claim(owner: str, since: float = 1.0, proof: Proof | None = None, *nodes: str, **paths: str) -> Claim:
    return Claim(owner, since, paths or {"": "web"}, proof, nodes or ("",))


def made(asks: list[Ask], before: Claim | None = None, *, platform: bool = False, **known: Any) -> Decision:
    return decide(asks, before, now=NOW, platform=platform, **known)


@pytest.mark.parametrize(
    ("asks", "before", "known", "owner", "proof", "standing"),
    [
        # Platform names are active at once, the first keeps them.
        ([ask(A), ask(B)], None, {"platform": True}, A, Proof(NOW, How.PLATFORM), "active"),
        ([ask(A), ask(B)], claim(B), {"platform": True}, B, Proof(1.0, How.PLATFORM), "active"),
        # A domain waits for its proof; one that is proved stays its owner's.
        ([ask(A), ask(B)], None, {}, A, None, "unproved"),
        ([ask(A), ask(B)], claim(B), {}, B, None, "unproved"),
        ([ask(A), ask(B)], claim(B, 1.0, DNS), {}, B, DNS, "active"),
        ([ask(A), ask(B)], None, {"believe": True}, A, None, "active"),
        # What was a platform name under another base domain has to be proved now.
        ([ask(A)], claim(A, 1.0, Proof(1.0, How.PLATFORM)), {}, A, None, "unproved"),
        # The operator's word.
        ([ask(A), ask(B)], None, {"ruling": Ruling(True, B, 7.0)}, B, Proof(7.0, How.OPERATOR), "active"),
        ([ask(A), ask(B)], claim(A), {"ruling": Ruling(True, B, 7.0)}, B, Proof(7.0, How.OPERATOR), "active"),
        ([ask(A)], None, {"ruling": Ruling(True, B, 7.0)}, A, None, "forbidden"),
        ([ask(A)], None, {"ruling": Ruling(True, B, 7.0), "believe": True}, A, None, "forbidden"),
        ([ask(A)], claim(A), {"ruling": Ruling(False, "", 7.0)}, A, None, "forbidden"),
        ([ask(A)], claim(A, 1.0, DNS), {"ruling": Ruling(False, "", 7.0)}, A, DNS, "forbidden"),
        ([ask(A)], None, {"ruling": Ruling(False, "", 7.0), "believe": True}, A, None, "forbidden"),
        ([ask(A)], None, {"ruling": Ruling(False, "", 7.0), "platform": True}, A, Proof(NOW, How.PLATFORM), "active"),
        # Who lost it by the operator's hand goes last, and gets it again if nobody else is there.
        ([ask(A), ask(B)], None, {"released": Released(A, 9.0, by_hand=True)}, B, None, "unproved"),
        ([ask(A)], None, {"released": Released(A, 9.0, by_hand=True)}, A, None, "unproved"),
        # Who lost it by being away does not.
        ([ask(A), ask(B)], None, {"released": Released(A, 9.0)}, A, None, "unproved"),
        # A claim whose owner asks for something else by now is still the owner's.
        ([ask(A, service="new"), ask(B)], claim(A, 1.0, DNS), {}, A, DNS, "active"),
    ],
)
def test_who_gets_it(
    asks: list[Ask], before: Claim | None, known: dict[str, Any], owner: str, proof: Proof | None, standing: str
) -> None:
    found = made(asks, before, **known)
    assert found.claim is not None
    assert (found.claim.owner, found.claim.proof, found.standing) == (owner, proof, Standing(standing))
    assert found.released is None


ELSEWHERE = claim(A, 1.0, None, "", "n2")


@pytest.mark.parametrize(
    ("asks", "heard", "owner", "nodes"),
    [
        ([], ["", "n2"], None, ()),
        ([ask(B)], ["", "n2"], B, ("",)),
        # A node that cannot be asked releases nothing, and what it wanted is kept.
        ([], [""], A, ("n2",)),
        ([], [], A, ("", "n2")),
        ([ask(B)], [""], A, ("n2",)),
        ([ask(A, "n3"), ask(B)], [""], A, ("n2", "n3")),
        # What is heard of it counts, also of a node that is not heard completely.
        ([ask(A, "n2")], [""], A, ("n2",)),
        ([ask(A, "n2"), ask(A)], ["", "n2"], A, ("", "n2")),
    ],
)
def test_a_claim_is_released_on_positive_evidence_only(
    asks: list[Ask], heard: list[str], owner: str | None, nodes: tuple[str, ...]
) -> None:
    found = made(asks, ELSEWHERE, heard=heard)
    if found.claim is None:
        assert (owner, found.released) == (None, Released(A, NOW))
        return
    assert (found.claim.owner, found.claim.nodes) == (owner, nodes)
    assert (found.released == Released(A, NOW)) is (owner == B)


@pytest.mark.parametrize("asks", [[], [ask(B)]], ids=["nobody", "a lurker"])
@pytest.mark.parametrize(
    ("platform", "proof", "kept"), [(False, DNS, KEPT), (True, Proof(1.0, How.PLATFORM), KEPT_PLATFORM)]
)
def test_what_is_proved_is_kept_for_its_owner_for_long(
    asks: list[Ask], platform: bool, proof: Proof, kept: float
) -> None:
    known: dict[str, Any] = {"platform": platform, "heard": ["", "n2"]}
    before = claim(A, 1.0, proof, "", "n2")
    gone = made(asks, before, **known)
    assert (gone.claim, gone.standing, gone.released) == (Claim(A, 1.0, {}, proof, (), NOW), Standing.ACTIVE, None)
    later = decide(asks, gone.claim, now=NOW + kept - 1, **known)
    assert later.claim == gone.claim, "it counts from when they went"
    back = decide([*asks, ask(A)], later.claim, now=NOW + kept - 1, **known)
    assert back.claim == claim(A, 1.0, proof), "with nothing to prove again"
    over = decide(asks, gone.claim, now=NOW + kept, **known)
    assert over.released == Released(A, NOW + kept)
    assert (over.claim.owner if over.claim is not None else None) == (B if asks else None)


def test_what_the_operator_has_allowed_is_kept_by_his_word() -> None:
    before = claim(A, 1.0, Proof(7.0, How.OPERATOR))
    assert made([], before, ruling=Ruling(True, A, 7.0)).claim is None
    found = made([ask(B)], before, ruling=Ruling(True, A, 7.0))
    assert found.standing is Standing.FORBIDDEN


def test_paths_stay_with_their_services_and_go_with_them() -> None:
    before = Claim(A, 1.0, {"": "web", "/api": "api"}, DNS)
    asks = [ask(A, service="new"), ask(A), ask(A, path="/v2", service="v2"), ask(B, path="/b")]
    found = made(asks, before)
    assert found.claim == Claim(A, 1.0, {"": "web", "/v2": "v2"}, DNS)
    silent = made([ask(A, path="/v2", service="v2")], before, heard=[])
    assert silent.claim == Claim(A, 1.0, {"": "web", "/api": "api", "/v2": "v2"}, DNS)


def test_nobody_asks_and_nobody_did() -> None:
    assert made([]).claim is None


@pytest.mark.parametrize(
    ("asks", "heard", "networks"),
    [
        # Who was first keeps the path; in a ledger from before networks were kept, the first to ask has it.
        ([ask(A, network="new"), ask(A, network="old")], [""], {"": "old"}),
        ([ask(A, path="/api", network="new")], [""], {"/api": "new"}),
        # Where a node is not heard, its containers may be there still.
        ([ask(A, network="new")], [], {"": "old"}),
        # Another service on the same network comes before the same one on another.
        ([ask(A, network="new"), ask(A, service="other", network="old")], [""], {"": "old"}),
        ([ask(A, network="old"), ask(A, path="/api", network="new")], [""], {"": "old", "/api": "new"}),
        # Who does not say where it is takes nothing, and what is remembered may be what it is on.
        ([ask(A, network=None)], [""], {"": "old"}),
        ([ask(A, network=None), ask(A, network="new")], [""], {"": "old"}),
        ([ask(A, service="other", network=None), ask(A, network="new")], [""], {"": "old"}),
        ([ask(A, network="old"), ask(A, path="/api", network=None)], [""], {"": "old"}),
        # Of what nobody asks for any more nothing is left but whose it is.
        ([], [""], {}),
    ],
)
def test_from_which_network_a_path_is_served(asks: list[Ask], heard: list[str], networks: dict[str, str]) -> None:
    before = Claim(A, 1.0, {"": "web"}, DNS, ("",), networks={"": "old"})
    found = made(asks, before, heard=heard).claim
    assert found is not None
    assert (found.networks, found.left) == (networks, {})


@pytest.mark.parametrize("service", ["web", "other"])
def test_a_path_is_kept_for_its_network_for_a_while(service: str) -> None:
    """Who takes its containers away to make them anew finds it where it was, whoever else waits for it."""
    before = Claim(A, 1.0, {"": "web"}, DNS, ("",), networks={"": "old"})
    twin = ask(A, service=service, network="new")
    left = made([twin], before).claim
    assert left == replace(before, left={"": NOW})
    assert until_free([before, left], NOW + 1.0) == KEPT_NETWORK - 1.0
    for now in (NOW + KEPT_NETWORK - 1, NOW - HOUR, NOW + KEPT_NETWORK):
        after = decide([twin], left, now=now, platform=False).claim
        kept = now < NOW + KEPT_NETWORK and now > NOW - KEPT_NETWORK
        assert after == (left if kept else Claim(A, 1.0, {"": service}, DNS, ("",), networks={"": "new"}))
        assert (until_free([left], now) is not None) is kept
    for back in (ask(A, network="old"), ask(A, network=None)):
        for asks in ([back], [twin, back]):
            assert decide(asks, left, now=NOW + 9.0, platform=False).claim == before
    silent = decide([twin], left, now=NOW + KEPT_NETWORK, platform=False, heard=[]).claim
    assert silent == left, "those of a node that is not heard may be back"
    assert made([twin], before, heard=[]).claim == before
    gone = made([], left).claim
    assert gone is not None
    assert (gone.paths, gone.networks, gone.left) == ({}, {}, {})
