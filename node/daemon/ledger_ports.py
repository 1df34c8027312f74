"""The ledger behind the session's ports: records through the durable outbox, members from the chain or, without it,
from the last list that was seen. Every call to the chain happens in a thread and has a deadline.
"""
