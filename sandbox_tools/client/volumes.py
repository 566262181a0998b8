"""Volumes: directories that outlive sandboxes (wire contract 2.11); `NewSandbox.volume_mounts` names them."""

from __future__ import annotations

from urllib.parse import quote

from sandbox_tools.client.answers import parsed
from sandbox_tools.client.transport import Transport
from sandbox_tools.wire.envelope import parse_json_array
from sandbox_tools.wire.records import Volume, volume_from_json


class Volumes:
    """Manages volumes; `ControlPlane.volumes`. Every method raises `SandboxRequestError`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(self) -> tuple[Volume, ...]:
        """Return the volumes of the account."""
        operation = "list the volumes"
        response = await self._transport.request("GET", "/volumes", operation=operation)
        return parsed(
            operation,
            lambda: tuple(volume_from_json(item) for item in parse_json_array(response.body, what="the list")),
        )

    async def create(self, name: str) -> Volume:
        """Create an empty volume. Sent once: it may have happened (wire contract 1.3)."""
        operation = "create a volume"
        response = await self._transport.request("POST", "/volumes", operation=operation, body={"name": name})
        return parsed(operation, lambda: volume_from_json(response.json_object("a volume")))

    async def get(self, volume_id: str) -> Volume:
        """Return a volume."""
        operation = "look a volume up"
        response = await self._transport.request("GET", _path(volume_id), operation=operation)
        return parsed(operation, lambda: volume_from_json(response.json_object("a volume")))

    async def delete(self, volume_id: str) -> None:
        """Delete a volume with its files."""
        await self._transport.request("DELETE", _path(volume_id), operation="delete a volume")


def _path(volume_id: str) -> str:
    return f"/volumes/{quote(volume_id, safe='')}"
