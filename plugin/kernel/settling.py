"""Who waits until the kernel has what is wanted: by part, and for what is admitted beside the parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Iterator

from stackpad.errors import StackpadError


class Settling:
    """The parts that have changed since they were last carried out, with the futures of those who wait for them."""

    def __init__(self) -> None:
        self._parts: dict[str, list[asyncio.Future[None]]] = {}
        self._admissions: list[asyncio.Future[None]] = []

    @property
    def changed(self) -> Collection[str]:
        """Keys of the parts that have changed."""
        return self._parts.keys()

    def touch(self, key: str) -> None:
        """A part has changed, and nobody waits for it."""
        self._parts.setdefault(key, [])

    def wait_for(self, key: str) -> asyncio.Future[None]:
        """A part has changed; done when it is carried out, or cannot be."""
        return _added(self._parts.setdefault(key, []))

    def wait_for_admission(self) -> asyncio.Future[None]:
        """Done when what is wanted beside the parts is carried out, or cannot be."""
        return _added(self._admissions)

    @contextlib.contextmanager
    def carried_out(self) -> Iterator[dict[str, list[asyncio.Future[None]]]]:
        """The parts that have changed, with who waits, for :func:`resolve`; they have still changed if this fails."""
        parts, self._parts = self._parts, {}
        try:
            yield parts
        except BaseException:
            for key, futures in parts.items():
                self._parts[key] = [*futures, *self._parts.get(key, ())]
            raise

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Those who wait for an admission hear of it when what is done inside has gone well."""
        admitting, self._admissions = self._admissions, []
        try:
            yield
        except BaseException:
            self._admissions = [*admitting, *self._admissions]
            raise
        resolve(admitting, None)

    def fail(self, error: StackpadError) -> None:
        """Tell all who wait that it cannot be done now."""
        parts, self._parts = self._parts, {}
        admitting, self._admissions = self._admissions, []
        for futures in (*parts.values(), admitting):
            resolve(futures, error)


def resolve(futures: Iterable[asyncio.Future[None]], error: StackpadError | None) -> None:
    """Tell those who still wait."""
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _added(futures: list[asyncio.Future[None]]) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    futures.append(future)
    return future
