"""The pages a visitor sees when there is nothing else to show; pure.

Caddy replaces placeholders in a body, so there is no brace in one: the style is in attributes.
"""

from __future__ import annotations

_TEXTS = {
    401: ("Who are you?", "This address asks for a user and a password."),
    403: ("Not from here", "This address is not open to the network you come from."),
    404: ("Nothing here", "No service answers at this address."),
    413: ("Too large", "What you sent is larger than this service takes."),
    502: ("No answer", "The service does not answer. It may have just ended, or be starting. Try again in a moment."),
    503: ("Not running", "The service is known, but not running now. Try again in a moment."),
    504: ("Too slow", "The service did not answer in time. Try again in a moment."),
}


def page(status: int) -> str:
    """The page for a status."""
    return _page(*_TEXTS[status], status)


def maintenance() -> str:
    """The page of a service that is closed on purpose."""
    return _page("Down for maintenance", "The service is being worked on. It will be back; try again later.", 503)


def other() -> str:
    """The page for whatever else went wrong."""
    return _page("Something went wrong", "Your request could not be answered.")


def _page(title: str, text: str, status: int | None = None) -> str:
    number = "" if status is None else f"{status} "
    last = "" if status is None else f'<p style="opacity:.6">Status {status}</p>'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{number}{title}</title>'
        f'<body style="font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:32em;padding:0 1em">'
        f'<h1 style="font-size:1.4em">{title}</h1><p>{text}</p>'
        f"{last}</body></html>\n"
    )
