"""A handle for a credential. Whoever holds the handle cannot print, copy, serialise or compare its value."""

from __future__ import annotations

from typing import Final, NoReturn
from weakref import WeakKeyDictionary

_REFUSAL: Final = "holds secret values and cannot be serialised"


class Opaque:
    """Base of the objects that hold secret values: nothing generic can serialise them or show what is inside.

    `copy` and every protocol of `pickle` ask for the state, so it is enough to refuse that.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} {_REFUSAL}")


class Secret(Opaque):
    """An opaque handle for a registered value.

    Made by `Registry.register`, and by `client/signing.py` and
    `client/builds.py` for a URL of which the part that matters is registered.

    The value is not an attribute, so `repr`, `str`, `format`, `vars`, `json`, `asdict` and a traceback with local
    variables show the name at most, and pickling is refused. A copy is the handle itself. Two handles are equal only
    when they are the same object: a comparison by value would answer guesses.
    """

    __slots__ = ("__weakref__", "_name")

    def __init__(self, name: str, value: str) -> None:
        self._name = name
        _VALUES[self] = value

    @property
    def name(self) -> str:
        """What the placeholder calls it, as in `[REDACTED:NAME]`."""
        return self._name

    def __repr__(self) -> str:
        return f"<secret {self._name}>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


_VALUES: Final[WeakKeyDictionary[Secret, str]] = WeakKeyDictionary()


def reveal(secret: Secret) -> str:
    """Return the value behind a handle.

    Only the code that puts a credential on the wire, or into the environment of a process that needs it, may import
    this; tests/unit/test_reveal_sites.py names the places.
    """
    return _VALUES[secret]
