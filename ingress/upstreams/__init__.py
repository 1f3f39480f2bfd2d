"""Stable upstreams: a number for each web service, kept on disk and told to the kernel before Caddy hears of it."""
