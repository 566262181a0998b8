"""Webhooks, and what they were told (wire contract 2.11)."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from sandbox_tools.client.answers import listed, listed_without_secrets, parsed, register_unread, traceless
from sandbox_tools.client.response import Response
from sandbox_tools.client.transport import Transport
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.events import Delivery, delivery_from_json, page_query
from sandbox_tools.wire.webhooks import (
    Webhook,
    WebhookSettings,
    settings_to_json,
    signature_secret_from_json,
    webhook_from_json,
)

_REGISTERED_AS: Final = "WEBHOOK_SECRET"


class Webhooks:
    """Manages webhooks; `ControlPlane.webhooks`. Every method raises `SandboxRequestError`.

    What changes something is sent once: it may have happened (wire contract 1.3).

    Args:
        registry: Where the secrets of webhooks are registered before they are sent, or an answer with one is read.
    """

    def __init__(self, transport: Transport, registry: Registry) -> None:
        self._transport = transport
        self._registry = registry

    async def create(self, settings: WebhookSettings, *, signature_secret: Secret | None = None) -> Webhook:
        """Make a webhook.

        Args:
            signature_secret: What the service signs deliveries with.

        Raises:
            WeakSecretError: It cannot be redacted, so it is not sent.
        """
        return await traceless(
            lambda: self._changed("POST", "/events/webhooks", "create a webhook", settings, signature_secret)
        )

    async def list(self) -> tuple[Webhook, ...]:
        """Return the webhooks of the account."""
        return await traceless(self._list)

    async def get(self, webhook_id: str) -> Webhook:
        """Return a webhook."""
        return await traceless(lambda: self._get(webhook_id))

    async def update(
        self, webhook_id: str, settings: WebhookSettings, *, signature_secret: Secret | None = None
    ) -> Webhook:
        """Change what `settings` says, and the secret if one is given; raises as `create`."""
        return await traceless(
            lambda: self._changed("PATCH", _path(webhook_id), "change a webhook", settings, signature_secret)
        )

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook."""
        await self._transport.request("DELETE", _path(webhook_id), operation="delete a webhook")

    async def deliveries(
        self,
        webhook_id: str | None = None,
        *,
        event_id: str | None = None,
        status: str | None = None,
        offset: int = 0,
        limit: int = 100,
        oldest_first: bool = False,
    ) -> tuple[Delivery, ...]:
        """Return what was delivered, or was to be.

        Args:
            webhook_id: To which; None: to all.
            event_id: Of which event; None: of all.
            status: Such as "failed"; None: all. The contract does not list them.
            offset: How many to leave out at the start.
            limit: How many at most.
        """
        operation = "list the deliveries of webhooks"
        path = "/events/webhook-deliveries" if webhook_id is None else _path(webhook_id, "deliveries")
        query = dict(page_query(offset=offset, limit=limit, oldest_first=oldest_first))
        query |= ({"eventID": event_id} if event_id else {}) | ({"status": status} if status else {})
        response = await self._transport.request("GET", path, operation=operation, params=query)
        return listed(operation, response, delivery_from_json)

    async def replay(self, delivery_id: str) -> Delivery:
        """Deliver something again. The service answers when it has noted that (202), not when it is done."""
        operation = "replay a delivery"
        path = f"/events/webhook-deliveries/{quote(delivery_id, safe='')}/replay"
        response = await self._transport.request("POST", path, operation=operation)
        return parsed(operation, lambda: delivery_from_json(response.json_object("a delivery")))

    async def _list(self) -> tuple[Webhook, ...]:
        operation = "list the webhooks"
        response = await self._transport.request("GET", "/events/webhooks", operation=operation)
        return listed_without_secrets(
            operation,
            response,
            webhook_from_json,
            registry=self._registry,
            name=_REGISTERED_AS,
            secret_of=signature_secret_from_json,
        )

    async def _get(self, webhook_id: str) -> Webhook:
        operation = "look a webhook up"
        return self._read(await self._transport.request("GET", _path(webhook_id), operation=operation), operation)

    async def _changed(
        self, method: str, path: str, operation: str, settings: WebhookSettings, secret: Secret | None
    ) -> Webhook:
        body = settings_to_json(settings)
        if secret is not None:
            body["signatureSecret"] = reveal(self._registry.register(secret.name, reveal(secret)))
        return self._read(await self._transport.request(method, path, operation=operation, body=body), operation)

    def _read(self, response: Response, operation: str) -> Webhook:
        message = parsed(operation, lambda: response.json_object("a webhook"))
        register_unread(self._registry, _REGISTERED_AS, [signature_secret_from_json(message)])
        return parsed(operation, lambda: webhook_from_json(message))


def _path(webhook_id: str, *rest: str) -> str:
    return "/".join(["/events/webhooks", quote(webhook_id, safe=""), *rest])
