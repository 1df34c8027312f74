"""Identifiers as people and other programs write them: CIDs and peer ids. Knows no chain."""

import base64

_DAG_PB_SHA256 = bytes([0x01, 0x70, 0x12, 0x20])  # CIDv1, dag-pb, SHA-256, 32 bytes
_ED25519_IDENTITY = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])  # identity multihash of a Protocol Buffers public key
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def cid_of(digest: bytes) -> str:
    """The CID (version 1, base32) of the dag-pb block with this SHA-256.

    Source: https://github.com/multiformats/cid
    """
    return "b" + base64.b32encode(_DAG_PB_SHA256 + digest).decode().lower().rstrip("=")


def peer_id_of(peer_key: bytes) -> str:
    """The libp2p peer id (12D3KooW…) of a raw Ed25519 public key.

    Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
    """
    content = _ED25519_IDENTITY + peer_key
    number, digits = int.from_bytes(content, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(content) - len(content.lstrip(b"\0"))) + digits
