"""Tests of the ingress: its search for proofs."""
