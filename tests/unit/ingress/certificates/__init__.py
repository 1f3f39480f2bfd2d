"""Tests of the ingress: its certificates."""
