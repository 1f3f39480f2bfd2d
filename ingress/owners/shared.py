"""The ledger as several control nodes share it: one record of the cluster's store for each host name; pure.

Each control node keeps its own ledger whole, and merges into it what the others have written. The merge comes to the same
whoever begins, so a store that was wiped, or restored from an old copy, is filled again from what any of them knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ingress.owners.ledger import Claim, Ledger, Released, Ruling, lean
from stackpad import records
from stackpad.errors import InvalidRequest


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    claim: Claim | None = None
    ruling: Ruling | None = None
    released: Released | None = None


def read(values: Mapping[str, bytes]) -> Ledger:
    """The ledger in the store's records by key; one that does not fit is left out."""
    claims: dict[str, Claim] = {}
    rulings: dict[str, Ruling] = {}
    released: dict[str, Released] = {}
    for key, value in values.items():
        host = key.removeprefix(records.HOSTS)
        entry = _entry(value)
        if entry.claim is not None:
            claims[host] = entry.claim
        if entry.ruling is not None:
            rulings[host] = entry.ruling
        if entry.released is not None:
            released[host] = entry.released
    return Ledger(claims, rulings, released)


Write = tuple[str, bytes | None, bytes | None]
"""A host name, its record as the store has it, and as it should be; ``None`` for none."""


def differences(ledger: Ledger, values: Mapping[str, bytes], me: str) -> Iterable[Write]:
    """What is to be written so that the store says what ``ledger`` says; ``me`` is this node's id."""
    known = ledger.claims.keys() | ledger.rulings.keys() | ledger.released.keys()
    for host in sorted(known):
        before = values.get(records.HOSTS + host)
        entry = _Entry(claim=ledger.claims.get(host), ruling=ledger.rulings.get(host), released=ledger.released.get(host))
        if before is None or _entry(before) != entry:
            fields = msgspec.to_builtins(entry)
            if fields["claim"] is not None:
                fields["claim"] = lean(fields["claim"])
            record = records.Host(owner=me, claim=fields)
            yield host, before, msgspec.json.encode(record)
    for key, value in values.items():
        host = key.removeprefix(records.HOSTS)
        if host not in known:
            yield host, value, None


def missing(ledger: Ledger, values: Mapping[str, bytes]) -> bool:
    """Whether the store has nothing of a host that ``ledger`` knows, as one that was wiped has."""
    known = (ledger.claims, ledger.rulings, ledger.released)
    return any(records.HOSTS + host not in values for part in known for host in part)


def _entry(value: bytes) -> _Entry:
    try:
        record = records.decode(value, records.Host)
        return msgspec.convert(record.claim, _Entry)
    except (InvalidRequest, msgspec.ValidationError):
        return _Entry()


def payload(writes: Iterable[Write]) -> list[dict[str, Any]]:
    """The writes as the plugin takes them."""
    return [
        {"host": host, "before": msgspec.Raw(before or b"null"), "after": msgspec.Raw(after or b"null")}
        for host, before, after in writes
    ]
