"""Builds of templates: start, watch, upload what they copy (wire contract 2.10)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import anyio

from sandbox_tools.client.answers import MAX_ITEMS, parsed, traceless
from sandbox_tools.client.transport import Transport
from sandbox_tools.client.upload import PIECE_BYTES, capability_of, is_acceptable, put_archive
from sandbox_tools.errors import SandboxProtocolError, SandboxRequestError, SandboxTimeoutError
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.redaction.secret import reveal
from sandbox_tools.wire.builds import (
    BuildLogEntry,
    BuildProgress,
    ContextState,
    LogSource,
    NewBuild,
    build_logs_from_json,
    build_to_json,
    checked_build_id,
    checked_hash,
    checked_limit,
    context_from_json,
    progress_from_json,
    status_query,
    upload_url_from_json,
)
from sandbox_tools.wire.fields import objects
from sandbox_tools.wire.observe import LogLevel, logs_query
from sandbox_tools.wire.templates import TemplateBuild, template_build_from_json

_POLL_S: Final = 1.0
_UPLOAD_URL: Final = "UPLOAD_URL"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLogin:
    """Logs in to a registry of images with a name and a password."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsLogin:
    """Logs in to a registry of AWS. All but the region is secret."""

    access_key_id: Secret
    secret_access_key: Secret
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpLogin:
    """Logs in to a registry of Google Cloud with the JSON file of a service account, as text."""

    service_account_json: Secret


ImageLogin = RegistryLogin | AwsLogin | GcpLogin


class Builds:
    """Builds templates; `ControlPlane.builds`. Every method raises `SandboxRequestError`, and ValueError for an id, a
    hash or a limit that the contract does not allow.

    Args:
        registry: Where what logs in, and where to upload, is registered before it is sent or used.
        loopback: The service is on this machine, so it may name an upload URL there.
    """

    def __init__(self, transport: Transport, registry: Registry, *, loopback: bool) -> None:
        self._transport = transport
        self._registry = registry
        self._loopback = loopback

    async def start(
        self, template_id: str, build_id: str, new: NewBuild | None = None, *, login: ImageLogin | None = None
    ) -> None:
        """Start a build. Sent once: it may have happened (wire contract 1.3).

        Args:
            build_id: Which `Templates.create` answers; the same again when the build waited for a context.
            new: What to build; None: what the service knows already.
            login: For the registry of `NewBuild.from_image`.

        Raises:
            WeakSecretError: What logs in cannot be redacted, so it is not sent.
        """
        path = _path(template_id, build_id)
        await traceless(
            lambda: self._transport.request(
                "POST", path, operation=f"start build {build_id}", body=self._body(new or NewBuild(), login)
            )
        )

    async def list(self, template_id: str) -> tuple[TemplateBuild, ...]:
        """Return the builds of a template."""
        operation = "list the builds of a template"
        response = await self._transport.request("GET", _path(template_id), operation=operation)
        return parsed(
            operation,
            lambda: tuple(
                template_build_from_json(item)
                for item in objects(response.json_object("the list"), "builds")[:MAX_ITEMS]
            ),
        )

    async def get(self, template_id: str, build_id: str) -> TemplateBuild:
        """Return one build."""
        operation = f"look build {checked_build_id(build_id)} up"
        response = await self._transport.request("GET", _path(template_id, build_id), operation=operation)
        return parsed(operation, lambda: template_build_from_json(response.json_object("a build")))

    async def status(
        self,
        template_id: str,
        build_id: str,
        *,
        logs_offset: int = 0,
        limit: int = 100,
        level: LogLevel | None = None,
    ) -> BuildProgress:
        """Return how far a build is, with some of its log.

        Args:
            logs_offset: Entries of the log to leave out at the start.
            limit: Entries of the log, 0..100.
            level: The least severity.
        """
        operation = f"read the status of build {checked_build_id(build_id)}"
        response = await self._transport.request(
            "GET",
            _path(template_id, build_id, "status"),
            operation=operation,
            params=status_query(logs_offset=logs_offset, limit=limit, level=level),
        )
        return parsed(operation, lambda: progress_from_json(response.json_object("the status")))

    async def logs(
        self,
        template_id: str,
        build_id: str,
        *,
        cursor: int = 0,
        limit: int = 100,
        backward: bool = False,
        level: LogLevel | None = None,
        source: LogSource | None = None,
    ) -> tuple[BuildLogEntry, ...]:
        """Return some of the log of a build.

        Args:
            cursor: Where to begin; 0: at the start, or, backward, at the end. The contract does not say what it
                counts; for logs of sandboxes it is a Unix time in milliseconds.
            limit: Entries, 0..100.
            backward: The newest first.
            level: The least severity.
            source: Where the service keeps it; None: wherever it is.
        """
        operation = f"read the log of build {checked_build_id(build_id)}"
        checked_limit(limit)
        query = logs_query(cursor=cursor, limit=limit, backward=backward, level=level, search=None)
        response = await self._transport.request(
            "GET",
            _path(template_id, build_id, "logs"),
            operation=operation,
            params=query | ({"source": source} if source else {}),
        )
        return parsed(operation, lambda: build_logs_from_json(response.json_object("the log")))

    async def wait(self, template_id: str, build_id: str, *, timeout_s: float) -> BuildProgress:
        """Return how a build ended (`BuildProgress.is_over`): a failure is a value too.

        It is asked for every second. What may pass, such as a lost connection, does not end the waiting.

        Raises:
            SandboxTimeoutError: It was not over in time. It goes on.
        """
        with anyio.move_on_after(timeout_s):
            while True:
                with _passing():
                    progress = await self.status(template_id, build_id, limit=0)
                    if progress.is_over:
                        return progress
                await anyio.sleep(_POLL_S)
        raise SandboxTimeoutError(f"wait for build {build_id}", timeout_s)

    async def has_context(self, template_id: str, files_hash: str) -> bool:
        """Tell whether the service has a context already.

        Args:
            files_hash: SHA-256 of the archive, as 64 lower-case hexadecimal digits.
        """
        return (await self._context(template_id, files_hash))[0].is_present

    async def upload_context(self, template_id: str, archive: str | os.PathLike[str]) -> str:
        """Upload what COPY takes files from, unless the service has it; return its hash, for `BuildStep.files_hash`.

        The archive is sent in pieces to the URL that the service names, which is on another host: our API key is not
        sent there, redirects are not followed, and the URL is redacted and in no error.

        Args:
            archive: Path of a gzip'd tar on this machine, which must not change meanwhile.

        Raises:
            ValueError: It is larger than the service takes.
            OSError: It cannot be read.
            WeakSecretError: The URL cannot be redacted, so nothing is sent.
        """
        async with await anyio.open_file(archive, "rb") as file:
            files_hash, size_bytes = await _measured(file)
            state, url = await self._context(template_id, files_hash)
            if state.is_present:
                return files_hash
            operation = f"upload build context {files_hash[:12]}"
            if url is None:
                raise SandboxProtocolError(operation, "the service names no URL that may be uploaded to")
            if state.max_bytes is not None and size_bytes > state.max_bytes:
                raise ValueError(f"The context has {size_bytes:,} bytes; the service takes {state.max_bytes:,}.")
            await traceless(lambda: put_archive(url, file, size_bytes, max_bytes=state.max_bytes, operation=operation))
        return files_hash

    async def _context(self, template_id: str, files_hash: str) -> tuple[ContextState, Secret | None]:
        path = f"/templates/{quote(template_id, safe='')}/files/{checked_hash(files_hash)}"
        return await traceless(lambda: self._asked_for_context(path, f"look build context {files_hash[:12]} up"))

    async def _asked_for_context(self, path: str, operation: str) -> tuple[ContextState, Secret | None]:
        response = await self._transport.request("GET", path, operation=operation)
        message = parsed(operation, lambda: response.json_object("an answer"))
        state, url = context_from_json(message), upload_url_from_json(message)
        if url is None or not is_acceptable(url, loopback=self._loopback):
            return state, None
        capability = self._registry.register(_UPLOAD_URL, capability_of(url))
        if capability.name == _UPLOAD_URL:  # and no other secret, which a service could have named to have it forgotten
            self._registry.retire(capability)  # at once: it is used once, soon, and is redacted for long afterwards
        return state, Secret(_UPLOAD_URL, url)

    def _body(self, new: NewBuild, login: ImageLogin | None) -> Mapping[str, object] | None:
        """None for an empty body: the service wants no Content-Type with it then."""
        return build_to_json(new) | ({"fromImageRegistry": self._login(login)} if login else {}) or None

    def _login(self, login: ImageLogin) -> dict[str, str]:
        if isinstance(login, RegistryLogin):
            return {"type": "registry", "username": login.username, "password": self._value(login.password)}
        if isinstance(login, GcpLogin):
            return {"type": "gcp", "serviceAccountJson": self._value(login.service_account_json)}
        return {
            "type": "aws",
            "awsAccessKeyId": self._value(login.access_key_id),
            "awsSecretAccessKey": self._value(login.secret_access_key),
            "awsRegion": login.region,
        }

    def _value(self, secret: Secret) -> str:
        """It may be of another registry than the one whose redactor will see the answers."""
        value = reveal(secret)
        self._registry.register(secret.name, value)
        return value


@contextmanager
def _passing() -> Iterator[None]:
    """Pass over an error that may be gone the next time."""
    try:
        yield
    except SandboxRequestError as exc:
        if not exc.retryable:
            raise


async def _measured(file: anyio.AsyncFile[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := await file.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def _path(template_id: str, build_id: str | None = None, *rest: str) -> str:
    ids = [] if build_id is None else [checked_build_id(build_id)]
    return "/".join(["/templates", quote(template_id, safe=""), "builds", *ids, *rest])
