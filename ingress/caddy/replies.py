"""What Caddy answers by itself, as handlers and routes: pages, redirects, and what becomes of errors; pure.

No text of a tenant's is in a page. An error that no route takes would end in Caddy's empty 200, so that the last one
takes all.
"""

from __future__ import annotations

from typing import Any

from ingress.caddy import pages

Json = dict[str, Any]

RETRY_AFTER = "5"
MAINTENANCE_RETRY_AFTER = "120"

PORT, STATUS, MESSAGE = "{http.request.port}", "{http.error.status_code}", "{http.error.message}"


def static(status: int) -> Json:
    """Our page for a status."""
    headers = {"Retry-After": [RETRY_AFTER]} if status in {502, 503, 504} else {}
    return _static(str(status), pages.page(status), headers)


def maintenance() -> Json:
    """The page of a service that is closed on purpose."""
    return _static("503", pages.maintenance(), {"Retry-After": [MAINTENANCE_RETRY_AFTER]})


def unauthorized() -> Json:
    """Our page for 401, with the question that makes a browser ask for user and password."""
    return _static("401", pages.page(401), {"WWW-Authenticate": ['Basic realm="restricted", charset="UTF-8"']})


def redirect(host: str) -> Json:
    """Sends a visitor on to ``host`` for good: same port, path and query.

    A request whose target is no path (``*``, or an address without slashes) would become part of the host name.
    """
    routes = []
    for port, asked in (("", {"vars": {PORT: ["", "443"]}}), (f":{PORT}", {})):
        headers = {"Location": [f"https://{host}{port}{{http.request.uri}}"]}
        answer = {"handler": "static_response", "status_code": "308", "headers": headers}
        routes.append(refusal({"path": ["/*"], **asked}, answer))
    return subroute([*routes, {"handle": [static(404)]}])


def subroute(routes: list[Json]) -> Json:
    """Routes as one handler."""
    return {"handler": "subroute", "routes": routes}


def refusal(condition: Json, answer: Json) -> Json:
    """A route that ends where ``condition`` holds."""
    return {"match": [condition], "handle": [answer], "terminal": True}


def errors() -> list[Json]:
    """What visitors see of errors; the last takes all that is left."""
    # Caddy 2.6 has a 502 for a body that is too large, and says what it was in words only.
    too_large = {"vars_regexp": {MESSAGE: {"pattern": "request body too large"}}}
    known = [refusal({"vars": {STATUS: [str(status)]}}, static(status)) for status in (413, 502, 503, 504)]
    authenticate = refusal({"vars": {STATUS: ["401"]}}, unauthorized())
    return [refusal(too_large, static(413)), authenticate, *known, {"handle": [_static(STATUS, pages.other(), {})]}]


def no_cookie() -> Json:
    """For the beginning of a list of errors: Caddy sets the cookie of a replica before it knows whether that answers."""
    return {"handle": [{"handler": "headers", "response": {"delete": ["Set-Cookie"]}}]}


def again() -> Json:
    """For the end of an inner list of errors: hand on what is left to the outer one."""
    return {"handle": [{"handler": "error", "error": MESSAGE, "status_code": STATUS}]}


def _static(status: str, body: str, headers: Json) -> Json:
    common = {"Content-Type": ["text/html; charset=utf-8"], "Cache-Control": ["no-store"]}
    return {"handler": "static_response", "status_code": status, "headers": {**common, **headers}, "body": body}
