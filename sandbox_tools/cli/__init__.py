"""The command `sandbox-tools`."""


def main() -> None:
    """Run the command; commands import what they need, so that each starts fast."""
    from sandbox_tools.cli.output import install_redaction  # noqa: PLC0415 - before typer, which keeps `sys.excepthook`

    install_redaction()
    from asyncio import CancelledError  # noqa: PLC0415

    from sandbox_tools.cli.app import app  # noqa: PLC0415 - typer is only loaded by the command itself

    try:
        app()
    except CancelledError:  # Python 3.10: what `anyio.run` makes of an interrupt
        raise SystemExit(130) from None
