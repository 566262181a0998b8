"""The sandboxes of one principal: which one a call uses, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import anyio.abc

from sandbox_tools.client.control import ControlPlane, RuntimeAccess
from sandbox_tools.client.preview_proxy import PreviewProxy
from sandbox_tools.client.preview_site import PreviewSite
from sandbox_tools.client.runtime import RemoteRuntime
from sandbox_tools.errors import (
    SandboxNotFoundError,
    SandboxRequestError,
    SandboxResponseError,
    SandboxToolsError,
    SandboxUnreachableError,
    ToolError,
)
from sandbox_tools.local.child import local_service
from sandbox_tools.redaction import Redactor
from sandbox_tools.runtime import Runtime
from sandbox_tools.sandboxes import owner
from sandbox_tools.sandboxes.creation import Creation, create_or_find, isolation_text
from sandbox_tools.sandboxes.held import Held
from sandbox_tools.sandboxes.options import SandboxOptions
from sandbox_tools.sandboxes.source import SandboxSource
from sandbox_tools.wire.records import SandboxInfo

_LOG: Final = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 1.5
"""Time for deleting all owned sandboxes at the end, in seconds: MCP clients wait about 2 s before they kill."""

_HANG_UP_S: Final = 0.2
"""Time for closing connections after that, in seconds."""

RENEW_TIMEOUT_S: Final = 60.0
"""Time for getting access again, resuming a paused sandbox included, in seconds."""


class Sandboxes:
    """The sandboxes of one principal. Open it with `Sandboxes.open`."""

    def __init__(
        self,
        source: SandboxSource,
        tasks: anyio.abc.TaskGroup,
        stack: AsyncExitStack,
        *,
        options: SandboxOptions,
        on_notice: Callable[[str], None],
        preview_site: PreviewSite | None,
    ) -> None:
        self._source = source
        self._tasks = tasks
        self._stack = stack
        self._options = options
        self._on_notice = on_notice
        self._preview_site = preview_site or PreviewProxy(tasks, Redactor(source.registry))
        self._held: dict[str, Held] = {}
        self._default_id: str | None = None
        self._creation: Creation | None = None
        self._adopting = anyio.Lock()
        self._starting = anyio.Lock()
        self._control: ControlPlane | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        source: SandboxSource,
        options: SandboxOptions | None = None,
        *,
        on_notice: Callable[[str], None],
        preview_site: PreviewSite | None = None,
    ) -> AsyncIterator[Sandboxes]:
        """Open; leaving it deletes every sandbox that it created, in parallel, within 2 s.

        Args:
            preview_site: Where private previews are served; default: a proxy on loopback.
        """
        body_error: BaseException | None = None
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            sandboxes = cls(
                source,
                tasks,
                stack,
                options=options or SandboxOptions(),
                on_notice=on_notice,
                preview_site=preview_site,
            )
            try:
                yield sandboxes
            except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised below
                body_error = exc  # a task group would wrap the caller's own error in a group
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True) as closing:
                    await sandboxes._close()
                if closing.cancelled_caught:
                    _LOG.warning("a sandbox may be left behind; `sandbox-tools sandbox prune` finds it")
                tasks.cancel_scope.cancel()
        if body_error is not None:
            raise body_error

    @property
    def where(self) -> str:
        """Where the sandboxes run, for people."""
        return self._source.where

    @asynccontextmanager
    async def use(self, sandbox_id: str | None) -> AsyncIterator[Runtime]:
        """Give the runtime of a sandbox for one call, and keep the sandbox alive as long.

        Args:
            sandbox_id: None: the default one, created when there is none.

        Raises:
            ToolError: There is no such sandbox, or it has ended; the message says what to do.
            SandboxToolsError: It could not be created or reached.
        """
        held = await self._get(sandbox_id)
        failure: SandboxRequestError | None = None
        with held.use():
            try:
                yield held.runtime
            except SandboxRequestError as exc:
                failure = exc
        if failure is not None:
            raise await self._explained(held, failure)

    async def _get(self, sandbox_id: str | None) -> Held:
        wanted = self._default_id if sandbox_id is None else sandbox_id
        held = self._held.get(wanted) if wanted is not None else None
        if held is not None:
            return held
        return await self._created() if sandbox_id is None else await self._adopted(sandbox_id)

    async def _explained(self, held: Held, failure: SandboxRequestError) -> Exception:
        """Tell a sandbox that is gone from a request that failed; what is gone is never silently replaced."""
        sandbox_id = held.runtime.sandbox_id
        if not _may_be_gone(failure) or not await self._is_gone(sandbox_id, failure):
            return failure
        if self._held.pop(sandbox_id, None) is not None:
            await self._let_go(held)
        if self._default_id == sandbox_id:
            self._default_id = None
        return ToolError(
            f"The sandbox {sandbox_id} has ended; its files and processes are gone. The next call without "
            "sandbox_id gets a new, empty sandbox: write the files again that you need."
        )

    async def _is_gone(self, sandbox_id: str, failure: SandboxRequestError) -> bool:
        if isinstance(failure, SandboxNotFoundError):
            return True
        try:
            info = await (await self._control_plane()).get(sandbox_id)
        except SandboxNotFoundError:
            return True
        except SandboxUnreachableError:
            return await self._service_has_died()
        except SandboxToolsError:
            return False  # not known to be gone
        return info.state not in ("running", "starting", "paused", "")

    async def _service_has_died(self) -> bool:
        """A service of ours takes its sandboxes with it, and the next call starts another; SeaCloud may come back."""
        if self._source.base_url is not None:
            return False
        control, self._control = self._control, None
        if control is not None:
            await control.aclose()
        return True

    async def _created(self) -> Held:
        """Wait for the one creation. Giving up waiting does not give up the sandbox: it may be paid for."""
        if self._creation is None:
            self._creation = Creation()
            self._tasks.start_soon(self._create, self._creation)
        creation = self._creation
        await creation.done.wait()
        if creation.held is None:
            raise creation.failure or SandboxUnreachableError("create a sandbox")
        return creation.held

    async def _create(self, creation: Creation) -> None:
        try:
            control = await self._control_plane()
            info, access = await create_or_find(control, replace(self._options.new_sandbox(), metadata=owner.labels()))
            self._on_notice(f"Sandbox {info.sandbox_id} is ready{isolation_text(info.isolation)}.")
            creation.held = self._hold(info, access, control, owned=True)
            self._default_id = info.sandbox_id
        except SandboxToolsError as exc:
            creation.failure = exc
        finally:
            self._creation = None
            creation.done.set()

    async def _adopted(self, sandbox_id: str) -> Held:
        if not self._source.adopt:
            raise _unknown(self._held)
        async with self._adopting:
            if sandbox_id in self._held:
                return self._held[sandbox_id]
            failure: Exception | None = None
            control = await self._control_plane()
            try:
                info, access = await control.connect(sandbox_id)
            except SandboxResponseError as exc:
                # Some ids are refused before they are looked up; what is not ours to see is "not found" as well.
                failure = _unknown(self._held) if exc.status in (400, 403, 404) else exc
            if failure is not None:
                raise failure
            return self._hold(info, access, control, owned=False)

    def _hold(self, info: SandboxInfo, access: RuntimeAccess, control: ControlPlane, *, owned: bool) -> Held:
        renew = partial(self._renew, info.sandbox_id)
        # Of an adopted sandbox they are private when the service gives a token for them (wire contract 5.2).
        is_private = self._options.private_previews or access.traffic_token is not None
        previews = self._preview_site if is_private else None
        runtime = RemoteRuntime(info.sandbox_id, access, self._tasks, previews, renew=renew)
        held = Held(runtime, owned=owned, ttl_s=self._options.ttl_s, end_at=info.end_at)
        self._held[info.sandbox_id] = held
        self._tasks.start_soon(held.keep_alive, control)
        return held

    async def _renew(self, sandbox_id: str) -> RuntimeAccess | None:
        """Get access again: a new token, a new URL, a resumed sandbox (`client.link.Renew`)."""
        with anyio.move_on_after(RENEW_TIMEOUT_S):
            try:
                _, access = await (await self._control_plane()).connect(sandbox_id)
            except SandboxNotFoundError:
                raise
            except SandboxToolsError:
                return None
            if access.resumed:
                self._on_notice(f"Sandbox {sandbox_id} was paused and is resumed.")
            held = self._held.get(sandbox_id)
            for token in held.runtime.tokens if held is not None else ():
                if token not in (access.access_token, access.traffic_token):
                    self._source.registry.retire(token)
            return access
        return None

    async def _control_plane(self) -> ControlPlane:
        async with self._starting:
            if self._control is None:
                source = self._source
                if source.base_url is None or source.api_key is None:
                    base_url, api_key = await self._stack.enter_async_context(
                        local_service(source.registry, source.min_isolation, source.injections)
                    )
                else:
                    base_url, api_key = source.base_url, source.api_key
                self._control = ControlPlane(base_url, api_key, source.registry)
            return self._control

    async def _close(self) -> None:
        try:
            async with anyio.create_task_group() as endings:
                if self._creation is not None:
                    endings.start_soon(self._close_created, self._creation)
                for held in tuple(self._held.values()):
                    endings.start_soon(self._close_one, held)
        finally:
            if self._control is not None:
                with anyio.move_on_after(_HANG_UP_S, shield=True):
                    await self._control.aclose()

    async def _close_created(self, creation: Creation) -> None:
        await creation.done.wait()
        if creation.held is not None:
            await self._close_one(creation.held)

    async def _close_one(self, held: Held) -> None:
        try:
            if held.owned and self._control is not None:
                await self._control.delete(held.runtime.sandbox_id)
        except SandboxToolsError as exc:
            _LOG.warning("sandbox %s was not deleted (%s)", held.runtime.sandbox_id, type(exc).__name__)
        finally:
            with anyio.move_on_after(_HANG_UP_S, shield=True):
                await self._let_go(held)

    async def _let_go(self, held: Held) -> None:
        await held.aclose()
        for token in held.runtime.tokens:
            self._source.registry.retire(token)


def _may_be_gone(failure: SandboxRequestError) -> bool:
    if isinstance(failure, SandboxResponseError):
        return failure.status in (401, 404, 502, 503) and failure.reason in (None, "sandbox_not_found")
    return isinstance(failure, SandboxUnreachableError)


def _unknown(held: dict[str, Held]) -> ToolError:
    known = f" Your sandboxes: {', '.join(held)}." if held else ""
    return ToolError(f"There is no sandbox with this id. Leave sandbox_id out to use your default one.{known}")
