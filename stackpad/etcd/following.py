"""Follows a prefix for ever: list, then watch from there, through every failure of the store.

What comes out is always enough to hold an exact copy: a :class:`Snapshot` replaces it, a :class:`Batch` changes it,
and after a :class:`Lost` it stands as the last that is known until either comes again. A cut watch is resumed where it
was; only if that is impossible, since its changes are compacted or the store is not the same any more, is there another
snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Final, Protocol

from stackpad.errors import Unavailable
from stackpad.etcd.records import Batch, Compacted, Listing, Lost, Origin, Snapshot, Stamp
from stackpad.etcd.transport import Rejected
from stackpad.runtime import Backoff

_FIRST: Final = 0.1
"""Seconds until the second attempt; later ones wait twice as long each."""

AWAY: Final = 0.5
"""Seconds there are at most between two attempts at a store that is out of reach: what has changed meanwhile is to be
known about a second after the way there is open again."""

REFUSING: Final = 5.0
"""The same for a store that answers and refuses, which costs it something each time (a password, more than most)."""


class Source(Protocol):
    """What is asked of a store in order to follow it."""

    async def list(self, prefix: str) -> Listing:
        """All there is under ``prefix``."""

    def changes(
        self, prefix: str, after_revision: int, origin: Origin | None, held: Mapping[str, Stamp]
    ) -> AsyncGenerator[Batch, None]:
        """All that becomes of it, and how far the watch has come; ``held`` goes on changing."""


async def follow(store: Source, prefix: str) -> AsyncGenerator[Snapshot | Batch | Lost, None]:
    """Snapshot first, or :class:`Lost` while there is none to be had; ends only when it is closed or cancelled."""
    away, refusing = Backoff(_FIRST, AWAY), Backoff(_FIRST, REFUSING)
    origin: Origin | None = None  # of what is held; None: list again
    known, cut, lost = 0, False, ""
    held = dict[str, Stamp]()
    while True:
        backoff = away
        try:
            if origin is None:
                listing = await store.list(prefix)
                yield Snapshot(listing.revision, {kv.key: kv for kv in listing.items})
                known, origin, lost = listing.revision, listing.origin, ""
                held = {kv.key: kv.stamp for kv in listing.items}
                del listing
            async with contextlib.aclosing(store.changes(prefix, known, origin, held)) as batches:
                async for batch in batches:
                    away.reset()
                    refusing.reset()
                    known, cut = batch.revision, True
                    for event in batch.events:
                        if event.kv is None:
                            held.pop(event.key, None)
                        else:
                            held[event.key] = event.kv.stamp
                    if batch.events or lost:
                        yield batch
                    lost = ""
        except Compacted:
            origin = None
        except Unavailable as error:
            # A watch that was cut is first taken up again: most cuts are over before anybody need know.
            if not cut and lost != str(error):
                lost = str(error)
                yield Lost(lost)
            cut = False
            backoff = refusing if isinstance(error, Rejected) else away
        await asyncio.sleep(next(backoff))
