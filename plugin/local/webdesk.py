"""What this node's ingress has said of its web containers; kept on disk, and what the firewall admits for it.

The ingress decides what is a web endpoint and when it is ready, since labels and health checks are its matter. What it
says is believed for this node's own containers only: a control node's Caddy then reaches exactly the address and port of
each ready one. The last word stays when the ingress is gone or this process is new: visitors of what runs are not cut.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from pathlib import Path

import msgspec
import structlog

from plugin.kernel.dataplane import FILTER, Element
from plugin.model import IPNet
from stackpad import files, jsontext, records
from stackpad.errors import InvalidRequest, Unavailable

SAVE = 2.0
"""Seconds between two copies on disk."""

MOST = 20_000
"""Web containers of one node that are taken; more are a mistake."""


class WebReport(msgspec.Struct, frozen=True, kw_only=True):
    """An ingress's whole word: whether visitors come in here (``control``), and its node's web containers.

    ``complete``, ``stale`` and ``proofs`` as in :class:`stackpad.records.Ingress`. The ``owner`` of a
    container is of no account.
    """

    control: bool = False
    complete: bool = False
    stale: bool = False
    proofs: bool | None = None
    containers: tuple[records.Web, ...] = ()


def read(body: bytes) -> WebReport:
    """The report in ``body``; raises :class:`InvalidRequest` for anything in it that does not fit."""
    try:
        report = jsontext.decode(body, type=WebReport)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the report of web containers does not fit: {error}") from error
    if len(report.containers) > MOST:
        raise InvalidRequest(f"the report has {len(report.containers)} web containers; at most {MOST} are taken")
    for container in report.containers:
        records.key(records.WEB, container.id)
        records.check(container)
    return report


def elements(report: WebReport | None, own: Collection[IPNet]) -> frozenset[Element]:
    """The firewall's elements for the ready containers; only addresses in ``own``, this node's networks."""
    found = set()
    for container in report.containers if report is not None else ():
        if container.state != "up" or not container.address or not container.port:
            continue
        address = ipaddress.ip_address(container.address)
        if any(address in net for net in own if net.version == address.version):
            found.add(Element(FILTER, f"web{address.version}", f"{address} . {container.port}"))
    return frozenset(found)


class WebDesk:
    """The last report, in memory at once and in a file soon after."""

    def __init__(self, path: Path) -> None:
        self._path, self._unsaved = path, asyncio.Event()
        self.report: WebReport | None = None
        self._log = structlog.get_logger("web")
        try:
            self.report = read(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, InvalidRequest) as error:
            # The ingress says it all again in a moment.
            self._log.warning("the last report of the ingress is lost", file=str(path), reason=str(error))

    def take(self, report: WebReport) -> None:
        """From now on this is what the ingress says."""
        if report != self.report:
            self.report = report
            self._unsaved.set()

    async def run(self) -> None:
        """Keep the last report on disk, until cancelled; many changes are written as one."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            try:
                await asyncio.to_thread(files.replace, self._path, msgspec.json.encode(self.report))
            except Unavailable as error:
                self._log.warning("the report of the ingress could not be kept", reason=str(error))
            await asyncio.sleep(SAVE)
