"""Names for ids: what only the engine knows, asked for in the background and never waited for."""

from __future__ import annotations


class Directory:
    """The engine's names of networks and of the containers behind endpoints, as last heard."""

    def __init__(self) -> None:
        self.engine_version: str | None = None
        self._networks: dict[str, str] = {}
        self._containers: dict[str, str] = {}

    def network_name(self, network_id: str) -> str | None:
        """The name of a network, ``None`` while it is not known."""
        return self._networks.get(network_id)

    def container_name(self, endpoint_id: str) -> str | None:
        """The name of the container an endpoint belongs to, ``None`` while it is not known."""
        return self._containers.get(endpoint_id)
