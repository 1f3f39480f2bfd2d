"""Caddy: what it is told, in its own words, and the one adapter that writes it there."""
