"""Tests of the ingress: its words of Caddy."""
