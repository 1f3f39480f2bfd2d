"""What a route's options are in Caddy's words; pure.

The order in which a request meets them: allowed networks, users, size of the body, then what is changed on its way. Both
2.6 and later versions take all of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from ingress.caddy import replies
from ingress.caddy.replies import Json, refusal, static, subroute
from ingress.routes import PathRoute
from stackpad.routeoptions import RouteOptions

COOKIE = "__Host-stackpad-"
"""A browser takes a cookie of such a name only from the host itself, over HTTPS and for all its paths."""


def around(route: PathRoute, proxy: Json) -> list[Json]:
    """The handlers for a route whose requests ``proxy`` passes on."""
    options = route.options
    inner = [*_changes(route), *(_sticky(route, proxy) if options.sticky else [proxy])]
    guards = list(_guards(options))
    return [subroute([*guards, {"handle": inner}])] if guards else inner


def remembers(options: RouteOptions) -> bool:
    """Whether what failed with one of a route's upstreams may be held against it for a while.

    A cookie is read anew for each attempt and would name the one that failed again.
    """
    return not options.sticky


def longer_than(most: int) -> str:
    """A regular expression for decimal numbers above ``most``."""
    digits = str(most)
    greater = [
        f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return f"^0*({'|'.join([f'[1-9][0-9]{{{len(digits)},}}', *greater])})$"


def _guards(options: RouteOptions) -> Iterable[Json]:
    if options.allow:
        yield refusal({"not": [{"remote_ip": {"ranges": list(options.allow)}}]}, static(403))
    if options.auth:
        # Caddy compares the password of a user there is not with a hash of its own that takes a second to compute.
        known = [start for user, _ in options.auth for start in _credentials(user)]
        yield refusal({"not": [{"header": {"Authorization": known}}]}, replies.unauthorized())
        yield {"handle": [_authentication(options)]}
    if options.body is not None:
        too_long = {"Content-Length": {"pattern": longer_than(options.body)}}
        yield refusal({"header_regexp": too_long}, static(413))


def _credentials(user: str) -> Iterable[str]:
    """How the header of a user begins: what all base64 of the name and whatever follows it has in common."""
    plain = f"{user}:".encode()
    start = base64.b64encode(plain).decode()[: len(plain) * 8 // 6]
    return (f"{scheme} {start}*" for scheme in ("Basic", "basic"))


def _authentication(options: RouteOptions) -> Json:
    # Base64 of the hash is what 2.6 takes, and later versions as well.
    accounts = [
        {"username": user, "password": base64.b64encode(hashed.encode()).decode()} for user, hashed in options.auth
    ]
    # Without a cache each request would cost a hash, not only the first one.
    basic = {"hash": {"algorithm": "bcrypt"}, "accounts": accounts, "hash_cache": {}}
    return {"handler": "authentication", "providers": {"http_basic": basic}}


def _changes(route: PathRoute) -> Iterable[Json]:
    options = route.options
    if options.headers:
        # Deferred: the label's word is the last one, whatever the service says, and our own pages do not get it.
        wanted = {name: [value] for name, value in options.headers}
        yield {"handler": "headers", "response": {"deferred": True, "set": wanted}}
    if options.body is not None:
        # For bodies that do not say how long they are.
        yield {"handler": "request_body", "max_size": options.body}
    if options.strip:
        yield {"handler": "headers", "request": {"set": {"X-Forwarded-Prefix": [route.path]}}}
        yield {"handler": "rewrite", "strip_path_prefix": route.path}


def _sticky(route: PathRoute, proxy: Json) -> list[Json]:
    """A visitor comes back to the replica of the cookie; to any other if that one takes no connection."""
    name = COOKIE + hashlib.sha256(f"{route.service} {route.path}".encode()).hexdigest()[:8]
    # Versions differ in what they say beside the value. It is no secret, and goes where the service's own cookies may go.
    attributes = {
        "search_regexp": f"^({name}=[^;]*).*$",
        "replace": "$1; Path=/; Secure; HttpOnly; SameSite=None",
    }
    cookie = {"handler": "headers", "response": {"deferred": True, "replace": {"Set-Cookie": [attributes]}}}
    chosen = {**proxy, "load_balancing": {"selection_policy": {"policy": "cookie", "name": name, "secret": "stackpad"}}}
    # What fails before there is a connection has not reached anybody.
    unreachable = {"vars_regexp": {replies.MESSAGE: {"pattern": "^dial "}}}
    others = [replies.no_cookie(), refusal(unreachable, proxy), replies.again()]
    return [cookie, {**subroute([{"handle": [chosen]}]), "errors": {"routes": others}}]
