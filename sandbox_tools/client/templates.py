"""Templates: list, look up, resolve a name (wire contract 2.10). Building them is for the vendor's own tools."""

from __future__ import annotations

from urllib.parse import quote

from sandbox_tools.client.answers import parsed
from sandbox_tools.client.transport import Transport
from sandbox_tools.wire.envelope import parse_json_array
from sandbox_tools.wire.templates import Template, Visibility, template_from_json, template_id_from_json


class Templates:
    """Reads templates; `ControlPlane.templates`. Every method raises `SandboxRequestError`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def list(
        self, *, visibility: Visibility | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[Template, ...]:
        """Return visible templates.

        Args:
            visibility: Whose; None: all.
            limit: 0..100.
            offset: How many to leave out at the start.
        """
        operation = "list the templates"
        params = {"limit": str(limit), "offset": str(offset)} | ({"visibility": visibility} if visibility else {})
        response = await self._transport.request("GET", "/templates", operation=operation, params=params)
        return parsed(
            operation,
            lambda: tuple(template_from_json(item) for item in parse_json_array(response.body, what="the list")),
        )

    async def get(self, template_id: str) -> Template:
        """Return a template with its latest builds."""
        operation = "look a template up"
        path = f"/templates/{quote(template_id, safe='')}"
        response = await self._transport.request("GET", path, operation=operation)
        return parsed(operation, lambda: template_from_json(response.json_object("a template")))

    async def resolve(self, ref: str) -> str:
        """Return the id of the template that a name stands for: an id, an official type, an alias or `name:tag`."""
        return await self._template_id(f"/templates/resolve/{quote(ref, safe='')}", "resolve a template")

    async def by_alias(self, alias: str) -> str:
        """Return the id of the template with this alias, and with no other kind of name."""
        return await self._template_id(f"/templates/aliases/{quote(alias, safe='')}", "look a template alias up")

    async def _template_id(self, path: str, operation: str) -> str:
        response = await self._transport.request("GET", path, operation=operation)
        return parsed(operation, lambda: template_id_from_json(response.json_object("a template")))
