"""The runtime of a sandbox under `/rt/{id}`: who may call it, and which route does what (wire contract 3.1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox_tools.local import runtime_files, runtime_process, runtime_status, runtime_tree, runtime_watch
from sandbox_tools.local.access import check_access
from sandbox_tools.local.channel import AgentError, ChannelError
from sandbox_tools.local.entry import Entry
from sandbox_tools.local.preview_site import PreviewSite
from sandbox_tools.local.registry import Registry
from sandbox_tools.local.runtime_files import file_error
from sandbox_tools.local.sandbox import Sandbox
from sandbox_tools.local.web import RequestError
from sandbox_tools.wire.files import SignedOperation

Handler = Callable[[Request, Sandbox], Awaitable[Response]]

_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/run"): runtime_process.run,
    ("GET", "/file"): runtime_files.read,
    ("POST", "/file"): runtime_files.write,
    ("GET", "/files"): runtime_files.download,
    ("POST", "/files"): runtime_files.write_files,
    ("POST", "/files/batch"): runtime_files.write_batch,
    ("POST", "/files/compose"): runtime_files.compose,
    ("GET", "/files/content"): runtime_files.content,
    ("GET", "/ports"): runtime_status.ports,
    ("GET", "/metrics"): runtime_status.metrics,
    ("GET", "/envs"): runtime_status.envs,
    ("POST", "/configure"): runtime_status.configure,
    ("POST", "/process.Process/Start"): runtime_process.start,
    ("POST", "/process.Process/Connect"): runtime_process.connect,
    ("POST", "/process.Process/List"): runtime_process.list_processes,
    ("POST", "/process.Process/SendInput"): runtime_process.send_input,
    ("POST", "/process.Process/StreamInput"): runtime_process.stream_input,
    ("POST", "/process.Process/Update"): runtime_process.update,
    ("POST", "/process.Process/SendSignal"): runtime_process.send_signal,
    ("POST", "/process.Process/CloseStdin"): runtime_process.close_stdin,
    ("POST", "/process.Process/GetResult"): runtime_process.get_result,
    ("POST", "/filesystem.Filesystem/Stat"): runtime_tree.stat,
    ("POST", "/filesystem.Filesystem/ListDir"): runtime_tree.list_directory,
    ("POST", "/filesystem.Filesystem/MakeDir"): runtime_tree.make_directory,
    ("POST", "/filesystem.Filesystem/Remove"): runtime_tree.remove,
    ("POST", "/filesystem.Filesystem/Move"): runtime_tree.move,
    ("POST", "/filesystem.Filesystem/Edit"): runtime_tree.edit,
    ("POST", "/filesystem.Filesystem/WatchDir"): runtime_watch.watch_directory,
    ("POST", "/filesystem.Filesystem/CreateWatcher"): runtime_watch.create_watcher,
    ("POST", "/filesystem.Filesystem/GetWatcherEvents"): runtime_watch.get_watcher_events,
    ("POST", "/filesystem.Filesystem/RemoveWatcher"): runtime_watch.remove_watcher,
}

_SIGNED: dict[tuple[str, str], SignedOperation] = {("GET", "/files"): "read", ("POST", "/files"): "write"}
"""What a signed URL can allow (wire contract 5.3)."""

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class RuntimeApi:
    """The routes of every sandbox's runtime."""

    def __init__(self, registry: Registry, previews: PreviewSite) -> None:
        self._registry = registry
        self._previews = previews

    def routes(self) -> list[Route]:
        table = [
            Route(f"/rt/{{id}}{path}", self._with_token(handler, _SIGNED.get((method, path))), methods=[method])
            for (method, path), handler in _ROUTES.items()
        ]
        return [
            *table,
            Route("/rt/{id}/proxy/{port}", self._previews.answer, methods=[*_METHODS, "OPTIONS"]),
            Route("/rt/{id}/proxy/{port}/{rest:path}", self._previews.answer, methods=[*_METHODS, "OPTIONS"]),
            Route("/rt/{id}/health", self.health, methods=["GET"]),
            Route("/rt/{id}/", self.health, methods=["GET"]),
            Route("/rt/{id}/{rest:path}", self.options, methods=["OPTIONS"]),
        ]

    async def health(self, request: Request) -> Response:
        self._running(request)
        return Response(status_code=204)

    async def options(self, _: Request) -> Response:
        """Open, and without CORS headers: no web page may call the runtime."""
        return Response(status_code=204, headers={"Allow": ", ".join([*_METHODS, "OPTIONS"])})

    def _with_token(self, handler: Handler, signed: SignedOperation | None) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            entry = self._known(request)
            check_access(request, entry.access_token, signed)
            if entry.running is None and entry.new.auto_resume:
                await self._registry.resume(entry, keep_token=True)
            self._running(request)
            try:
                return await handler(request, entry.sandbox)
            except AgentError as error:
                problem = file_error(error)
            except ChannelError:
                self._running(request)
                problem = RequestError(502, "the sandbox gave no valid answer")
            except TimeoutError:
                problem = RequestError(504, "the sandbox did not answer in time")
            raise problem

        return checked

    def _running(self, request: Request) -> Entry:
        """Return the sandbox of a request.

        Raises:
            RequestError: It is not there, is paused, or has stopped (404).
        """
        entry = self._known(request)
        if entry.state == "paused":
            raise RequestError(404, "the sandbox is paused; a connect resumes it")
        if entry.state == "stopped":
            why = f": {entry.end_reason}" if entry.end_reason else ""
            raise RequestError(404, f"the sandbox has stopped; its processes are gone{why}")
        return entry

    def _known(self, request: Request) -> Entry:
        """Return the sandbox of a request, whatever its state.

        Raises:
            RequestError: It is not there (404).
        """
        entry = self._registry.get(request.path_params["id"])
        if entry is None:
            raise RequestError(404, "sandbox not found")
        return entry
