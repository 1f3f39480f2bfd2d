"""Tests of the ingress: what runs where."""
