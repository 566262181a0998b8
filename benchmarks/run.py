"""Every benchmark, one after the other: `make bench`. Figures for people; no test asserts any of them."""

from __future__ import annotations

from benchmarks import client, files, local, redaction, tools


def main() -> None:
    """Print every figure."""
    redaction.main()
    print()
    tools.main()
    print()
    files.main()
    print()
    client.main()
    print()
    local.main()


if __name__ == "__main__":
    main()
