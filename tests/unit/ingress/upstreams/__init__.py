"""Tests of the ingress: its stable upstreams."""
