"""The peer-to-peer network: hosts, finding each other, announcements, payloads, blocks.

Carries bytes. Knows nothing of tensors, the ledger, IPFS pinning, or what a round is for.
"""
