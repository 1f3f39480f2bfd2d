"""Certificates: what is in one, the operator's files, and which one each host is seen to have."""
