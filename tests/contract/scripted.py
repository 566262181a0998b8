"""A control plane, and a store of objects, that answer as a test says and keep what they are sent."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sandbox_tools.client.control import ControlPlane
from sandbox_tools.redaction import Redactor, Registry, Secret
from tests.contract.hostile import Answer, HostileServer, hostile_server, recording


@dataclass
class Scripted:
    """A control plane that answers as told, and its client."""

    server: HostileServer
    control: ControlPlane
    registry: Registry
    bodies: list[bytes]
    key: str

    def secret(self, name: str) -> tuple[Secret, str]:
        value = secrets.token_urlsafe(24)
        return self.registry.register(name, value), value

    def redacted(self, text: str) -> str:
        return Redactor(self.registry).text(text)


@asynccontextmanager
async def scripted(*answers: Answer) -> AsyncIterator[Scripted]:
    bodies: list[bytes] = []
    registry = Registry()
    key = secrets.token_urlsafe(32)
    async with hostile_server(*[recording(bodies, answer) for answer in answers]) as server:
        control = ControlPlane(server.base_url, registry.register("SEACLOUD_API_KEY", key), registry)
        try:
            yield Scripted(server, control, registry, bodies, key)
        finally:
            await control.aclose()


@asynccontextmanager
async def store(*answers: Answer) -> AsyncIterator[tuple[HostileServer, list[bytes]]]:
    bodies: list[bytes] = []
    async with hostile_server(*[recording(bodies, answer) for answer in answers]) as server:
        yield server, bodies
