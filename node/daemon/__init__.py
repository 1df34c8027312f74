"""The composition root: opens the real parts, hands them to the session, and is the node's whole life."""
