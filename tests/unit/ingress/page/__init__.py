"""Tests of the ingress: its status page."""
