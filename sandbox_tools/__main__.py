"""`python -m sandbox_tools`: the same as the command `sandbox-tools`."""

from sandbox_tools.cli import main

if __name__ == "__main__":
    main()
