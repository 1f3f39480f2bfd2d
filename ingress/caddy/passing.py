"""How Caddy passes a request on: to whom it is tried again, and what of connections is kept; pure."""

from __future__ import annotations

from collections.abc import Iterable

from ingress.caddy import replies
from ingress.caddy.replies import Json, subroute
from ingress.upstreams.stable import TURN
from stackpad.labels import Wire
from stackpad.upstreams import TURNS

DRAIN = "1h"
"""How long a WebSocket outlives a change of configuration, where Caddy can do that (2.7 and newer)."""

RETRIES = 5
"""How often a visitor's connection to a number is tried again: about as long as a service without anybody stays up."""

TURN_LASTS = 5
"""Seconds in which Caddy uses one form of the stable upstreams' addresses."""

IN_TURN: Json = {"policy": "round_robin"}


def remembering(proxy: Json) -> Json:
    """``proxy``, with what fails passed over for a while; who fails there, or finds nobody left, may go to any.

    What a visitor breaks himself, such as the framing of his body, is to Caddy a failure of the upstream: he can have
    every replica passed over, and must not take the site down by it. And Caddy 2.6, which has no body left for a second
    try, would hold that try's failure against the next replica.
    """
    retries = min(proxy["load_balancing"]["retries"], max(2 * len(proxy["upstreams"]), RETRIES))
    any_of_them = {**proxy, "load_balancing": {**proxy["load_balancing"], "retries": retries}}
    once = {key: value for key, value in proxy["load_balancing"].items() if key != "retries"}
    first = {**proxy, "load_balancing": once, "health_checks": {"passive": {"fail_duration": "3s", "max_fails": 1}}}
    # What has reached nobody, and a GET, which may be sent twice.
    nobody = {"vars_regexp": {replies.MESSAGE: {"pattern": "^(no upstreams available|dial )"}}}
    harmless = {"method": ["GET"], "vars": {replies.STATUS: ["502"]}}
    again = {"match": [nobody, harmless], "handle": [any_of_them], "terminal": True}
    return {**subroute([{"handle": [first]}]), "errors": {"routes": [again, replies.again()]}}


def proxy(upstreams: Iterable[str], wire: Wire, keep_streams: bool, *, stable: bool = False) -> Json:
    """Passes requests on to ``upstreams``, which are numbers where they are ``stable``."""
    dials = [{"dial": upstream} for upstream in upstreams]
    made: Json = {
        "handler": "reverse_proxy",
        "upstreams": dials,
        # Nobody answers for the address of a container that is gone: that must not use up the time for another try.
        "transport": {"protocol": "http", "dial_timeout": "1s"},
    }
    # Where no connection can be made, another one is tried; of requests that have been sent, only a GET is sent again.
    if stable:
        # Without a pause, for the reason below: who finds nobody hears nothing from the kernel for a second, or until
        # somebody is there, and then tries again. What is kept of connections is closed before its address's next turn.
        made["load_balancing"] = {"retries": RETRIES, **({"selection_policy": IN_TURN} if len(dials) > 1 else {})}
        made["transport"]["keep_alive"] = {
            "probe_interval": "30s",
            "max_idle_conns_per_host": 32,
            "idle_timeout": f"{TURN_LASTS - 1}s",
        }
    elif len(dials) > 1:
        # By number and without a pause: Caddy ends a pause, and with it the visit, when its configuration changes, and
        # the death of a replica is a change. Visits take turns with each other, so that one may meet the dead again.
        made["load_balancing"] = {"retries": 4 * len(dials), "selection_policy": IN_TURN}
    else:
        made["load_balancing"] = {"try_duration": "5s", "try_interval": "50ms"}
    if wire is Wire.H2C:
        made["transport"]["versions"] = ["h2c", "2"]
    if keep_streams:
        made["stream_close_delay"] = DRAIN
    return made


def turn() -> Json:
    """What knows which form of a stable upstream's address has its turn: by the last digit of the clock's seconds."""
    first, second = TURNS
    return {
        "handler": "map",
        "source": "{time.now.unix}",
        "destinations": [TURN],
        "mappings": [{"input_regexp": "[0-4]$", "outputs": [first]}],
        "defaults": [second],
    }
