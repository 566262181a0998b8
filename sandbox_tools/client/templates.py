"""Templates: what sandboxes are made from (wire contract 2.10). How one is built: builds.py."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from sandbox_tools.client.answers import listed, parsed
from sandbox_tools.client.transport import Transport
from sandbox_tools.wire.builds import checked_build_id, checked_limit
from sandbox_tools.wire.fields import text, texts
from sandbox_tools.wire.templates import (
    CreatedTemplate,
    NewTemplate,
    Template,
    TemplateTag,
    Visibility,
    created_template_from_json,
    new_template_to_json,
    tag_from_json,
    template_from_json,
    template_id_from_json,
)


class Templates:
    """Manages templates; `ControlPlane.templates`. Every method raises `SandboxRequestError`, and ValueError for what
    the contract does not allow. What changes something is sent once: it may have happened (wire contract 1.3).
    """

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
        params = {"limit": checked_limit(limit), "offset": str(offset)} | (
            {"visibility": visibility} if visibility else {}
        )
        response = await self._transport.request("GET", "/templates", operation=operation, params=params)
        return listed(operation, response, template_from_json)

    async def get(self, template_id: str, *, limit: int | None = None, next_token: str | None = None) -> Template:
        """Return a template with its latest builds.

        Args:
            limit: Builds, 0..100; None: the service's default.
            next_token: For builds before those. Where an answer has it, the contract does not say; `Builds.list` has
                all builds.
        """
        operation = "look a template up"
        params = ({} if limit is None else {"limit": checked_limit(limit)}) | (
            {"nextToken": next_token} if next_token else {}
        )
        response = await self._transport.request("GET", _path(template_id), operation=operation, params=params)
        return parsed(operation, lambda: template_from_json(response.json_object("a template")))

    async def resolve(self, ref: str) -> str:
        """Return the id of the template that a name stands for: an id, an official type, an alias or `name:tag`."""
        return await self._template_id(f"/templates/resolve/{quote(ref, safe='')}", "resolve a template")

    async def by_alias(self, alias: str) -> str:
        """Return the id of the template with this alias, and with no other kind of name."""
        return await self._template_id(f"/templates/aliases/{quote(alias, safe='')}", "look a template alias up")

    async def create(self, new: NewTemplate) -> CreatedTemplate:
        """Make a template, whose first build is then to be started with `Builds.start`."""
        operation = "create a template"
        body = new_template_to_json(new)
        response = await self._transport.request("POST", "/templates", operation=operation, body=body)
        return parsed(operation, lambda: created_template_from_json(response.json_object("a template")))

    async def update(self, template_id: str, *, public: bool) -> tuple[str, ...]:
        """Say whether everybody may use a template, which is all that can be changed; return its names."""
        operation = "change a template"
        response = await self._transport.request(
            "PATCH", _path(template_id), operation=operation, body={"public": public}
        )
        return parsed(operation, lambda: texts(response.json_object("an answer"), "names"))

    async def delete(self, template_id: str) -> None:
        """Delete a template."""
        await self._transport.request("DELETE", _path(template_id), operation="delete a template")

    async def rollback(self, template_id: str, build_id: str) -> Template:
        """Make sandboxes from an earlier build again."""
        operation = "roll a template back"
        body = {"buildID": checked_build_id(build_id)}
        response = await self._transport.request("POST", _path(template_id, "rollback"), operation=operation, body=body)
        return parsed(operation, lambda: template_from_json(response.json_object("a template")))

    async def tags(self, template_id: str) -> tuple[TemplateTag, ...]:
        """Return the tags of a template."""
        operation = "list the tags of a template"
        response = await self._transport.request("GET", _path(template_id, "tags"), operation=operation)
        return listed(operation, response, tag_from_json)

    async def tag(self, target: str, tags: Sequence[str]) -> str:
        """Give tags to the build that `target` (`name:tag`) stands for; return the id of that build."""
        operation = "tag a template"
        body = {"target": target, "tags": _checked_tags(tags)}
        response = await self._transport.request("POST", "/templates/tags", operation=operation, body=body)
        return parsed(operation, lambda: text(response.json_object("an answer"), "buildID"))

    async def untag(self, name: str, tags: Sequence[str]) -> None:
        """Take tags from the template of this name."""
        body = {"name": name, "tags": _checked_tags(tags)}
        await self._transport.request("DELETE", "/templates/tags", operation="untag a template", body=body)

    async def _template_id(self, path: str, operation: str) -> str:
        response = await self._transport.request("GET", path, operation=operation)
        return parsed(operation, lambda: template_id_from_json(response.json_object("a template")))


def _path(template_id: str, *rest: str) -> str:
    return "/".join(["/templates", quote(template_id, safe=""), *rest])


def _checked_tags(tags: Sequence[str]) -> list[str]:
    if isinstance(tags, str) or not tags or not all(tags):
        raise ValueError("Give a list of tags, none of them empty.")
    return [*tags]
