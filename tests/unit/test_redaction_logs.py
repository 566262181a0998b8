"""A redacting formatter covers all that a log record may print."""

from __future__ import annotations

import io
import logging
import secrets
from collections.abc import Callable

import pytest

from sandbox_tools.redaction import RedactingFormatter, Redactor, Registry

REGISTRY = Registry()
VALUE = secrets.token_hex(20)
REGISTRY.register("TOKEN", VALUE)


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    """A logger outside the tree of loggers, where pytest's own handlers cannot see it, and what it prints."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    inner = logging.Formatter("%(name)s %(levelname)s %(message)s %(extra)s", defaults={"extra": ""})
    handler.setFormatter(RedactingFormatter(inner, Redactor(REGISTRY)))
    logger = logging.Logger("parent", logging.DEBUG)
    logger.addHandler(handler)
    return logger, stream


def _log_to_child(logger: logging.Logger) -> None:
    child = logging.Logger("child", logging.DEBUG)
    child.parent = logger
    child.warning(VALUE)


def _log_exception(logger: logging.Logger) -> None:
    try:
        raise ValueError(VALUE)
    except ValueError:
        logger.exception("failed")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (lambda logger: logger.info("key " + VALUE), "INFO key [REDACTED:TOKEN]"),
        (lambda logger: logger.info("key %s", VALUE), "INFO key [REDACTED:TOKEN]"),
        (lambda logger: logger.info("bytes %s", [VALUE.encode()]), "INFO bytes [b'[REDACTED:TOKEN]']"),
        (lambda logger: logger.info("hello", extra={"extra": VALUE}), "INFO hello [REDACTED:TOKEN]"),
        (_log_to_child, "child WARNING [REDACTED:TOKEN]"),
        (_log_exception, "ValueError: [REDACTED:TOKEN]"),
        (lambda logger: logger.info("%d", VALUE), "[log record withheld: formatting failed]"),
    ],
)
def test_no_part_of_a_record_shows_a_secret(
    logged: tuple[logging.Logger, io.StringIO],
    capsys: pytest.CaptureFixture[str],
    log: Callable[[logging.Logger], None],
    expected: str,
) -> None:
    logger, stream = logged
    log(logger)
    assert expected in stream.getvalue()
    assert VALUE not in stream.getvalue() + "".join(capsys.readouterr())
