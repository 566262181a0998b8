"""Which sandbox a call uses: created on first use, adopted by id, kept alive, deleted at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import (
    ConfigurationError,
    SandboxNotFoundError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxToolsError,
    SandboxUnreachableError,
    ToolError,
)
from sandbox_tools.local.child import local_service
from sandbox_tools.local.isolation import MinIsolation, least_isolation
from sandbox_tools.redaction import Registry, Secret
from sandbox_tools.runtime import Runtime
from sandbox_tools.wire.control import MAX_TTL_S, NewSandbox, normalize_base_url
from sandbox_tools.wire.envelope import WireError
from sandbox_tools.wire.network import NetworkRules
from sandbox_tools.wire.records import Isolation

_LOG: Final = logging.getLogger(__name__)

DEFAULT_TEMPLATE: Final = "code-interpreter"
"""The official template that can run code (wire contract 6)."""

DEFAULT_TTL_S: Final = 1800

CLOSE_TIMEOUT_S: Final = 1.5
"""Time for deleting all owned sandboxes at the end, in seconds: MCP clients wait about 2 s before they kill."""

OWNER_METADATA: Final = {"created-by": "sandbox-tools"}
"""Marks the sandboxes that this package created, so that orphans can be found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSource:
    """Where sandboxes come from.

    Attributes:
        where: For people; no secret.
        base_url: API root; None: the local service, started when it is first needed.
        min_isolation: The least that the local service may give a sandbox.
        adopt: Whether a call may name a sandbox of the account that was not created here.
    """

    where: str
    registry: Registry
    base_url: str | None = None
    api_key: Secret | None = None
    min_isolation: MinIsolation = "namespaces"
    adopt: bool = True


def open_source(
    *, base_url: str | None, api_key: str | None, registry: Registry, min_isolation: str | None = None
) -> SandboxSource:
    """Choose between SeaCloud and this machine: an API key, given or in `SEACLOUD_API_KEY`, means SeaCloud.

    Raises:
        ConfigurationError: There is a key and no usable base URL, or the other way round; or no such level.
    """
    minimum = least_isolation(min_isolation)
    key = api_key or os.environ.get("SEACLOUD_API_KEY", "").strip()
    url = base_url or os.environ.get("SEACLOUD_BASE_URL", "").strip()
    if not key:
        if base_url:
            raise ConfigurationError("base_url is set but there is no API key. Set SEACLOUD_API_KEY as well.")
        where = "the local sandbox on this machine (SEACLOUD_API_KEY is not set)"
        return SandboxSource(where=where, registry=registry, min_isolation=minimum)
    secret = registry.register("SEACLOUD_API_KEY", key)
    if not url:
        raise ConfigurationError("SEACLOUD_API_KEY is set but SEACLOUD_BASE_URL is not. Set it to the API base URL.")
    problem = ""
    try:
        root = normalize_base_url(url)
    except WireError as exc:
        problem = str(exc)
    else:
        return SandboxSource(where=f"SeaCloud at {root}", registry=registry, base_url=root, api_key=secret)
    raise ConfigurationError(f"SEACLOUD_BASE_URL cannot be used: {problem}.")


@dataclass(slots=True, kw_only=True)
class _Held:
    """A sandbox that calls use."""

    runtime: RemoteRuntime
    token: Secret
    owned: bool
    extend_after: float


class _Creation:
    """A sandbox that is being created; every call that needs it waits for the same one."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.held: _Held | None = None
        self.failure: SandboxToolsError | None = None


class Sandboxes:
    """The sandboxes of one principal. Open it with `Sandboxes.open`."""

    def __init__(
        self,
        source: SandboxSource,
        tasks: anyio.abc.TaskGroup,
        stack: AsyncExitStack,
        *,
        template: str | None,
        ttl_s: int,
        internet: bool,
        on_notice: Callable[[str], None],
    ) -> None:
        self._source = source
        self._tasks = tasks
        self._stack = stack
        self._new = NewSandbox(
            template=template or DEFAULT_TEMPLATE,
            ttl_s=ttl_s,
            metadata=OWNER_METADATA,
            network=NetworkRules(internet=internet),  # said in either case: SeaCloud's own default is open
        )
        self._ttl_s = ttl_s
        self._on_notice = on_notice
        self._held: dict[str, _Held] = {}
        self._default_id: str | None = None
        self._creation: _Creation | None = None
        self._adopting = anyio.Lock()
        self._starting = anyio.Lock()
        self._control: ControlPlane | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        source: SandboxSource,
        *,
        template: str | None = None,
        ttl_s: int = DEFAULT_TTL_S,
        internet: bool = False,
        on_notice: Callable[[str], None],
    ) -> AsyncIterator[Sandboxes]:
        """Open; leaving it deletes every sandbox that it created, in parallel, within 2 s."""
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise ConfigurationError(f"ttl_s must be from 1 to {MAX_TTL_S} seconds.")
        body_error: BaseException | None = None
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            sandboxes = cls(
                source, tasks, stack, template=template, ttl_s=ttl_s, internet=internet, on_notice=on_notice
            )
            try:
                yield sandboxes
            except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised below
                body_error = exc  # a task group would wrap the caller's own error in a group
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                    await sandboxes._close()
                tasks.cancel_scope.cancel()
        if body_error is not None:
            raise body_error

    @property
    def where(self) -> str:
        """Where the sandboxes run, for people."""
        return self._source.where

    async def get(self, sandbox_id: str | None) -> Runtime:
        """Return the runtime of a sandbox: the default one, created when there is none, or the one with this id.

        Raises:
            ToolError: There is no such sandbox; the message says what to do.
            SandboxToolsError: It could not be created or reached.
        """
        wanted = self._default_id if sandbox_id is None else sandbox_id
        held = self._held.get(wanted) if wanted is not None else None
        if held is None:
            held = await self._created() if sandbox_id is None else await self._adopted(sandbox_id)
        self._keep_alive(held)
        return held.runtime

    async def explain(self, runtime: Runtime, failure: SandboxRequestError) -> Exception:
        """Tell a sandbox that is gone from a request that failed; what is gone is never silently replaced."""
        sandbox_id = runtime.sandbox_id
        if not _may_be_gone(failure) or await self._is_running(sandbox_id):
            return failure
        held = self._held.pop(sandbox_id, None)
        if held is not None:
            await self._let_go(held)
        if self._default_id == sandbox_id:
            self._default_id = None
        return ToolError(
            f"The sandbox {sandbox_id} has ended; its files and processes are gone. The next call without "
            "sandbox_id gets a new, empty sandbox: write the files again that you need."
        )

    async def _created(self) -> _Held:
        """Wait for the one creation. Giving up waiting does not give up the sandbox: it may be paid for."""
        if self._creation is None:
            self._creation = _Creation()
            self._tasks.start_soon(self._create, self._creation)
        creation = self._creation
        await creation.done.wait()
        if creation.held is None:
            raise creation.failure or SandboxUnreachableError("create a sandbox")
        return creation.held

    async def _create(self, creation: _Creation) -> None:
        try:
            control = await self._control_plane()
            info, access = await control.create(self._new)
            self._on_notice(f"Sandbox {info.sandbox_id} is ready{_isolation_text(info.isolation)}.")
            creation.held = self._hold(info.sandbox_id, access, owned=True)
            self._default_id = info.sandbox_id
        except SandboxToolsError as exc:
            creation.failure = exc
        finally:
            self._creation = None
            creation.done.set()

    async def _adopted(self, sandbox_id: str) -> _Held:
        if not self._source.adopt:
            raise _unknown(self._held)
        async with self._adopting:
            if sandbox_id in self._held:
                return self._held[sandbox_id]
            failure: Exception | None = None
            try:
                info, access = await (await self._control_plane()).connect(sandbox_id)
            except SandboxResponseError as exc:
                # Some ids are refused before they are looked up; what is not ours to see is "not found" as well.
                failure = _unknown(self._held) if exc.status in (400, 403, 404) else exc
            if failure is not None:
                raise failure
            return self._hold(info.sandbox_id, access, owned=False)

    def _hold(self, sandbox_id: str, access: RuntimeAccess, *, owned: bool) -> _Held:
        held = _Held(
            runtime=RemoteRuntime(sandbox_id, access, self._tasks),
            token=access.access_token,
            owned=owned,
            extend_after=time.monotonic() + self._ttl_s / 2,
        )
        self._held[sandbox_id] = held
        return held

    def _keep_alive(self, held: _Held) -> None:
        """Extend the time to live of an owned sandbox, beside the call, when half of it is over."""
        if held.owned and time.monotonic() > held.extend_after:
            held.extend_after = time.monotonic() + self._ttl_s / 2
            self._tasks.start_soon(self._extend, held.runtime.sandbox_id)

    async def _extend(self, sandbox_id: str) -> None:
        try:
            await (await self._control_plane()).set_timeout(sandbox_id, self._ttl_s)
        except SandboxToolsError:
            return  # the next call finds out whether the sandbox is still there

    async def _is_running(self, sandbox_id: str) -> bool:
        try:
            info = await (await self._control_plane()).get(sandbox_id)
        except (SandboxNotFoundError, SandboxUnreachableError):
            return False
        except SandboxToolsError:
            return True  # not known to be gone
        return info.state in ("running", "starting", "paused", "")

    async def _control_plane(self) -> ControlPlane:
        async with self._starting:
            if self._control is None:
                source = self._source
                if source.base_url is None or source.api_key is None:
                    base_url, api_key = await self._stack.enter_async_context(
                        local_service(source.registry, source.min_isolation)
                    )
                else:
                    base_url, api_key = source.base_url, source.api_key
                self._control = ControlPlane(base_url, api_key, source.registry)
            return self._control

    async def _close(self) -> None:
        if self._creation is not None:
            await self._creation.done.wait()
        async with anyio.create_task_group() as deletions:
            for held in self._held.values():
                deletions.start_soon(self._close_one, held)
        if self._control is not None:
            await self._control.aclose()

    async def _close_one(self, held: _Held) -> None:
        if held.owned and self._control is not None:
            try:
                await self._control.delete(held.runtime.sandbox_id)
            except SandboxToolsError as exc:
                _LOG.warning("sandbox %s was not deleted (%s)", held.runtime.sandbox_id, type(exc).__name__)
        await self._let_go(held)

    async def _let_go(self, held: _Held) -> None:
        await held.runtime.aclose()
        self._source.registry.retire(held.token)


def _may_be_gone(failure: SandboxRequestError) -> bool:
    if isinstance(failure, SandboxResponseError):
        return failure.status in (401, 404, 502, 503) and failure.reason in (None, "sandbox_not_found")
    return isinstance(failure, SandboxUnreachableError)


def _unknown(held: dict[str, _Held]) -> ToolError:
    known = f" Your sandboxes: {', '.join(held)}." if held else ""
    return ToolError(f"There is no sandbox with this id. Leave sandbox_id out to use your default one.{known}")


def _isolation_text(isolation: Isolation | None) -> str:
    if isolation is None:
        return ""
    limits = [f"{kind} limits: {', '.join(names) or 'none'}" for kind, names in _limits(isolation)]
    return f" (isolation: {isolation.level}, {isolation.launcher} launcher; {'; '.join(limits)})"


def _limits(isolation: Isolation) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("hard", isolation.hard_limits), ("soft", isolation.soft_limits)
