from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Announcement(_message.Message):
    __slots__ = ("session_id", "round", "digest", "size", "codec", "public_key", "signature", "note")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    round: int
    digest: bytes
    size: int
    codec: str
    public_key: bytes
    signature: bytes
    note: bytes
    def __init__(self, session_id: _Optional[int] = ..., round: _Optional[int] = ..., digest: _Optional[bytes] = ..., size: _Optional[int] = ..., codec: _Optional[str] = ..., public_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., note: _Optional[bytes] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("public_key", "addresses")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    public_key: bytes
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, public_key: _Optional[bytes] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class AnnouncementsRequest(_message.Message):
    __slots__ = ("session_id", "since_round")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_ROUND_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    since_round: int
    def __init__(self, session_id: _Optional[int] = ..., since_round: _Optional[int] = ...) -> None: ...

class PayloadRequest(_message.Message):
    __slots__ = ("digest", "offset")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    offset: int
    def __init__(self, digest: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class PeersRequest(_message.Message):
    __slots__ = ("session_id", "own_addresses")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OWN_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    own_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[int] = ..., own_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class GrantRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    def __init__(self, session_id: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("announcements", "payload", "peers", "tell", "grant")
    ANNOUNCEMENTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    TELL_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    announcements: AnnouncementsRequest
    payload: PayloadRequest
    peers: PeersRequest
    tell: Announcement
    grant: GrantRequest
    def __init__(self, announcements: _Optional[_Union[AnnouncementsRequest, _Mapping]] = ..., payload: _Optional[_Union[PayloadRequest, _Mapping]] = ..., peers: _Optional[_Union[PeersRequest, _Mapping]] = ..., tell: _Optional[_Union[Announcement, _Mapping]] = ..., grant: _Optional[_Union[GrantRequest, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "final")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    final: bool
    def __init__(self, reason: _Optional[str] = ..., final: _Optional[bool] = ...) -> None: ...

class Announcements(_message.Message):
    __slots__ = ("announcements",)
    ANNOUNCEMENTS_FIELD_NUMBER: _ClassVar[int]
    announcements: _containers.RepeatedCompositeFieldContainer[Announcement]
    def __init__(self, announcements: _Optional[_Iterable[_Union[Announcement, _Mapping]]] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: bytes
    def __init__(self, grant: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("refusal", "announcements", "header", "peers", "grant")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENTS_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    refusal: Refusal
    announcements: Announcements
    header: Header
    peers: Peers
    grant: Grant
    def __init__(self, refusal: _Optional[_Union[Refusal, _Mapping]] = ..., announcements: _Optional[_Union[Announcements, _Mapping]] = ..., header: _Optional[_Union[Header, _Mapping]] = ..., peers: _Optional[_Union[Peers, _Mapping]] = ..., grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
