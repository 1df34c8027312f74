"""`python -m node` and the `fl-node` command."""

from node.cli import main

if __name__ == "__main__":
    main()
