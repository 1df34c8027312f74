"""The `fl-node` command: the only place of the program that prints and exits; knows every room, does nothing itself."""

from node.cli.app import main

__all__ = ["main"]
