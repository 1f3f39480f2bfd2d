"""Tests of the ingress: who owns what."""
