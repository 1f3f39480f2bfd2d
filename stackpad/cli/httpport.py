"""What this node answers at the port that visitors without https come to."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from urllib.parse import quote

from stackpad.cli.visit import Plain

PATIENCE = 3.0
"""Seconds for the connection and for the answer, of a server on this node."""

MOST = 4
"""Addresses that are tried."""


def ask(host: str, path: str, port: int, own: Sequence[str]) -> Plain:
    """The answer for ``host`` at the first of this node's addresses ``own``, or its loopback, that has one."""
    problem = ""
    for address in (*own[:MOST], "127.0.0.1"):
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        try:
            # The head alone: it is asked of whoever listens there, perhaps a site of the operator's.
            connection.request(
                "HEAD", quote(path, safe="/%:@!$&'()*+,;=~"), headers={"Host": host if port == 80 else f"{host}:{port}"}
            )
            response = connection.getresponse()
            return Plain(port, response.status, response.getheader("Location") or "")
        except (OSError, http.client.HTTPException) as error:
            problem = problem or f"{address}: {getattr(error, 'strerror', None) or str(error) or type(error).__name__}"
        finally:
            connection.close()
    return Plain(port, problem=problem)
