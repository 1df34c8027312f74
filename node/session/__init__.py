"""Rounds, cohorts and membership: what the node does and when. Reaches network, ledger, IPFS and torch through ports."""
