"""Many virtual members in one process, from the node's own functions; no network, no chain, no event loop."""
