"""The seeds: small files, one folder a target, each called by what it is."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent / "corpus"


def seeds(target: str) -> dict[str, bytes]:
    """A target's seeds by name."""
    return {file.name: file.read_bytes() for file in sorted((HERE / target).iterdir())}
