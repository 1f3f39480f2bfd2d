"""The engine as the ingress sees it: what it reads, less than the engine says, and nothing it could change."""
