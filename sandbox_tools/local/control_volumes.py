"""The control plane's volumes (wire contract 2.11). The id of a volume is its name, which `volumeMounts` wants."""

from __future__ import annotations

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from sandbox_tools.local import volumes
from sandbox_tools.local.launcher import volumes_uid
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.web import RequestError, json_response, read_json


class Volumes:
    """Handlers of the volumes of a user."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list(self, _: Request) -> Response:
        return json_response([_item(name) for name in self._registry.state.volumes()])

    async def create(self, request: Request) -> Response:
        name = (await read_json(request)).get("name")
        if not isinstance(name, str) or not volumes.is_name(name):
            raise RequestError(400, volumes.NAME_RULE)
        if name in self._registry.state.volumes():
            raise RequestError(409, "there is a volume of this name")
        self._registry.state.volume(name, volumes_uid())
        return json_response(_item(name), 201)

    async def detail(self, request: Request) -> Response:
        return json_response(_item(self._known(request)))

    async def delete(self, request: Request) -> Response:
        name = self._known(request)
        if any(mount.name == name for entry in self._registry.entries() for mount in entry.new.volume_mounts):
            raise RequestError(409, "a sandbox has this volume; delete the sandbox first")
        await anyio.to_thread.run_sync(self._registry.state.remove_volume, name)
        return Response(status_code=204)

    def _known(self, request: Request) -> str:
        """Return the name in the path.

        Raises:
            RequestError: There is no such volume (404).
        """
        name: str = request.path_params["name"]
        if name not in self._registry.state.volumes():
            raise RequestError(404, "volume not found")
        return name


def _item(name: str) -> dict[str, str]:
    return {"volumeID": name, "name": name}
