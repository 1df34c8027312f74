"""The node: learns, exchanges, mixes, records. See docs/architecture.md for its rooms."""
