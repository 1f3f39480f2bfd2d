"""The ingress sidecar: watches container events and keeps Caddy in step."""
