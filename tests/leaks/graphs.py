"""What can be reached from an exception: causes, arguments, notes, and the variables of the frames that it passed."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path

from sandbox_tools.redaction.secret import Opaque

TESTS = str(Path(__file__).parents[1])

MAX_DEPTH = 8

_DEAD_ENDS = (Opaque, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type(None), int, float)
"""Handles and redactors cannot be printed, copied or serialised, which is what they are for."""


def paths_to(wanted: str, error: BaseException) -> list[str]:
    """Return where a text is in what can be reached from an exception."""
    return [path for path, leaf in _leaves(error, type(error).__name__, set(), 0) if wanted in leaf]


def _leaves(value: object, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, str]]:
    """Yield every text, and the `repr` of what is not looked into, with how to get there."""
    if isinstance(value, str):
        yield path, str.__str__(value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        yield path, bytes(value).decode("latin-1")
    elif not isinstance(value, _DEAD_ENDS) and id(value) not in seen:
        seen.add(id(value))
        yield path, _repr(value)
        if depth < MAX_DEPTH:
            for name, part in _parts(value):
                yield from _leaves(part, f"{path}{name}", seen, depth + 1)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as exc:
        return repr(type(exc))


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for number, (key, item) in enumerate(list(value.items())):
            yield f".key{number}", key
            yield f"[{str(key)[:20]!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    if isinstance(value, BaseException):
        yield from ((f".{name}", getattr(value, name, None)) for name in ("args", "__cause__", "__context__"))
        yield ".exceptions", getattr(value, "exceptions", ())
        yield from _locals(value.__traceback__)
    if isinstance(value, types.CoroutineType) and value.cr_frame is not None:
        yield ".cr_frame", value.cr_frame.f_locals
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(value, "__dict__", {}), *([slots] if isinstance(slots, str) else slots)]
    yield from ((f".{name}", getattr(value, name, None)) for name in names if name not in ("__dict__", "__weakref__"))


def _locals(trace: types.TracebackType | None) -> Iterator[tuple[str, object]]:
    """Yield the variables of all frames, of the libraries too; only those of a test know the secret."""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(TESTS) and "_pytest" not in code.co_filename:
            yield f" in {code.co_name}", dict(trace.tb_frame.f_locals)
        trace = trace.tb_next
