"""Rounds, cohorts, gathering, coordination and succession: what the node does and when.

Reaches the other rooms through ports.
"""
