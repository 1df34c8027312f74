"""The audit: everything that members said on the ledger, checked again from public values, without a node or a key."""
