"""Tests of the ingress: its view of the engine."""
