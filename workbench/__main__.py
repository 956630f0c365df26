"""The command `cyclegan`. It is ready for signals before anything else is imported."""

from __future__ import annotations

import sys

from cyclegan.signals import interrupt_on_ending


def main() -> None:
    """Run the command line."""
    try:
        interrupt_on_ending()
        from workbench import cli

        cli.main()
    except KeyboardInterrupt:  # before the command line could catch it
        sys.exit(130)


if __name__ == "__main__":
    main()
