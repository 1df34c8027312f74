"""Rounds, cohorts and membership: what the node does and when; reaches the other rooms through ports."""
