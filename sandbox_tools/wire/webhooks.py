"""Webhooks, which tell a URL of the user of events (wire contract 2.11).

The contract infers the JSON names of the settings from names in a client of the vendor. How a delivery is signed, and
in which header, it does not say (11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.fields import mapping, text, texts, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What happens when a delivery fails. What is None is the service's default.

    Attributes:
        max_attempts: Deliveries of one event at most.
        delays_s: Seconds before each further one.
        dead_letter: What could never be delivered goes to `WebhookSettings.dead_letter_url`.
    """

    max_attempts: int | None = None
    delays_s: tuple[int, ...] | None = None
    dead_letter: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """What a webhook is to be. What is None is the service's default, or, in an update, stays as it is.

    Attributes:
        url: Where events go; it may hold a token: not in `repr`.
        events: Types, such as "sandbox.lifecycle.created".
        dead_letter_url: Where events go that could not be delivered.
    """

    name: str | None = None
    url: str | None = field(default=None, repr=False)
    enabled: bool | None = None
    events: tuple[str, ...] | None = None
    dead_letter_url: str | None = field(default=None, repr=False)
    retry_policy: RetryPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook. Its secret is not part of it, even where the service tells it.

    Attributes:
        settings: What the service says of them; what it does not is None.
        created_at: RFC 3339 UTC, or "".
    """

    webhook_id: str
    settings: WebhookSettings
    created_at: str = ""


def settings_to_json(settings: WebhookSettings) -> dict[str, object]:
    """Return the body of a request that makes or changes a webhook, without its secret."""
    policy = settings.retry_policy
    return _given(
        name=settings.name,
        url=settings.url,
        enabled=settings.enabled,
        events=None if settings.events is None else list(settings.events),
        deadLetterURL=settings.dead_letter_url,
        retryPolicy=policy and _policy_to_json(policy),
    )


def webhook_from_json(message: object) -> Webhook:
    """Read a webhook.

    Raises:
        WireError: It is not an object with an id.
    """
    fields = message if isinstance(message, dict) else {}
    webhook_id = text(fields, "webhookID") or text(fields, "id")
    if not webhook_id:
        raise WireError("a webhook has no id")
    settings = WebhookSettings(
        name=text(fields, "name") or None,
        url=text(fields, "url") or None,
        enabled=_switch(fields, "enabled"),
        events=texts(fields, "events") if "events" in fields else None,
        dead_letter_url=text(fields, "deadLetterURL") or None,
        retry_policy=_policy(mapping(fields, "retryPolicy")),
    )
    return Webhook(webhook_id=webhook_id, settings=settings, created_at=text(fields, "createdAt"))


def signature_secret_from_json(message: object) -> str | None:
    """Read the secret of a webhook, which a service may tell. Register it before anything else sees the answer."""
    return text(message, "signatureSecret") or None if isinstance(message, dict) else None


def _policy_to_json(policy: RetryPolicy) -> dict[str, object]:
    return _given(
        maxAttempts=policy.max_attempts,
        delaySeconds=None if policy.delays_s is None else list(policy.delays_s),
        deadLetterEnabled=policy.dead_letter,
    )


def _policy(message: Mapping[str, object]) -> RetryPolicy | None:
    if not message:
        return None
    delays = message.get("delaySeconds")
    wholes = [whole({"each": each}, "each") for each in delays] if isinstance(delays, list) else None
    return RetryPolicy(
        max_attempts=whole(message, "maxAttempts"),
        delays_s=None if wholes is None else tuple(each for each in wholes if each is not None),
        dead_letter=_switch(message, "deadLetterEnabled"),
    )


def _switch(message: Mapping[str, object], key: str) -> bool | None:
    value = message.get(key)
    return value if isinstance(value, bool) else None


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
