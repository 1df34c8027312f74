"""The session key of a private session, wrapped for one member. Knows no ledger: it is given keys and a session id.

    grant = sealed box (103) || signature (64)
    sealed box = libsodium's crypto_box_seal, to the member's key, of "fl-node/grant/1" || session id (8) || key (32)
    signature  = Ed25519, of the creator, over "fl-node/grant/1" || session id (8) || member's key (32) || sealed box

A member has no further key for this: its Ed25519 libp2p key, which the ledger binds to its account, is converted to
X25519 as libsodium (and age, for SSH keys) does it, so a creator can grant as soon as a member has joined. A grant may
travel and be stored anywhere: only the member can open it, and only the creator can have made it. An auditor is granted
like a member. There is no forward secrecy and no revocation: whoever had the key can read all the session's snapshots.
Source: https://doc.libsodium.org/advanced/ed25519-curve25519
"""

from nacl.bindings import crypto_box_SEALBYTES
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from node.errors import StorageError
from node.storage.sealing import KEY_BYTES

_CONTEXT = b"fl-node/grant/1"
_BOX_BYTES = len(_CONTEXT) + 8 + KEY_BYTES + crypto_box_SEALBYTES
_GRANT_BYTES = _BOX_BYTES + 64


def grant_key(key: bytes, session: int, member: bytes, creator_seed: bytes) -> bytes:
    """The grant (167 bytes) of a session key to a member. `member` is its raw Ed25519 public key (32 bytes).

    `creator_seed` is the creator's Ed25519 private key (32 bytes). Raises StorageError for a key that is none.
    """
    if len(key) != KEY_BYTES:
        raise StorageError(f"session key of {len(key)} bytes: it must have {KEY_BYTES}")
    try:
        box = SealedBox(VerifyKey(member).to_curve25519_public_key())
    except (CryptoError, ValueError) as error:
        raise StorageError(f"member's key {member.hex()[:64]} is no Ed25519 key: take it from the ledger") from error
    sealed = box.encrypt(_CONTEXT + session.to_bytes(8, "big") + key)
    return sealed + SigningKey(creator_seed).sign(_signed(session, member, sealed)).signature


def open_grant(grant: bytes, session: int, creator: bytes, member_seed: bytes) -> bytes:
    """The session key (32 bytes) in a grant that this creator made for this member. Raises StorageError."""
    own = SigningKey(member_seed)
    sealed, signature = grant[:_BOX_BYTES], grant[_BOX_BYTES:]
    if len(grant) != _GRANT_BYTES:
        raise _refused(f"has {len(grant)} bytes, {_GRANT_BYTES} are due")
    try:
        VerifyKey(creator).verify(_signed(session, bytes(own.verify_key), sealed), signature)
        plain = SealedBox(own.to_curve25519_private_key()).decrypt(sealed)
    except BadSignatureError as error:
        raise _refused("was not signed by the session's creator for this member and session") from error
    except (CryptoError, ValueError) as error:
        raise _refused("cannot be opened with this member's key") from error
    if not plain.startswith(_CONTEXT + session.to_bytes(8, "big")):
        raise _refused("is of another session")
    return plain[-KEY_BYTES:]


def _signed(session: int, member: bytes, sealed: bytes) -> bytes:
    return _CONTEXT + session.to_bytes(8, "big") + member + sealed


def _refused(why: str) -> StorageError:
    return StorageError(f"grant of the session key {why}: ask the creator for a new one")
