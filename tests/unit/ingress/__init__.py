"""The pure parts of the ingress."""
