"""The pages a visitor sees when there is nothing else to show; pure.

Caddy replaces placeholders in a body, so there is no brace in one: the style is in attributes.
"""

from __future__ import annotations

_TEXTS = {
    404: ("Nothing here", "No service answers at this address."),
    502: ("No answer", "The service is there, but does not answer. Try again in a moment."),
    503: ("Not running", "The service is known, but not running now. Try again in a moment."),
    504: ("Too slow", "The service did not answer in time. Try again in a moment."),
}


def page(status: int) -> str:
    """The page for a status."""
    title, text = _TEXTS[status]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="color-scheme" content="light dark"><title>{status} {title}</title>'
        f'<body style="font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:32em;padding:0 1em">'
        f'<h1 style="font-size:1.4em">{title}</h1><p>{text}</p>'
        f'<p style="opacity:.6">Status {status}</p></body></html>\n'
    )
