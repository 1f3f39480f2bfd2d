"""Follows a prefix for ever: list, then watch from there, through every failure of the store.

What comes out is always enough to hold an exact copy: a :class:`Snapshot` replaces it, a :class:`Batch` changes it,
and after a :class:`Lost` it stands as the last that is known until either comes again. A cut watch is resumed where it
was; only if that is impossible, since its changes are compacted or the store is not the same any more, is there another
snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from stackpad.errors import Unavailable
from stackpad.etcd.records import Batch, Compacted, Lost, Origin, Snapshot
from stackpad.runtime import Backoff

if TYPE_CHECKING:
    from stackpad.etcd.client import Etcd

_FIRST, _LAST = 0.1, 5.0
"""Seconds between attempts while the store is away."""


async def follow(etcd: Etcd, prefix: str) -> AsyncGenerator[Snapshot | Batch | Lost, None]:
    """Snapshot first, or :class:`Lost` while there is none to be had; ends only when it is closed or cancelled."""
    backoff = Backoff(_FIRST, _LAST)
    origin: Origin | None = None  # of what is held; None: list again
    known, cut, lost = 0, False, ""
    while True:
        try:
            if origin is None:
                listing = await etcd.list(prefix)
                yield Snapshot(listing.revision, {kv.key: kv for kv in listing.items})
                known, origin, lost = listing.revision, listing.origin, ""
                del listing
            async with contextlib.aclosing(etcd.changes(prefix, known, origin)) as batches:
                async for batch in batches:
                    backoff.reset()
                    known, cut = batch.revision, True
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
        await asyncio.sleep(next(backoff))
