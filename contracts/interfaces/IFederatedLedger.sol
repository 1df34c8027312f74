// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title The log of federated sessions: who took part, and what each member committed to in each round.
/// @notice This interface is the specification; docs/protocol.md, sections 1, 2 and 7, has the byte layouts.
/// Records live in events. Storage holds one slot per (session, member), from which a reader of the events can tell
/// whether a record is missing, altered, doubled or out of order. Nobody, the creator included, can alter a record.
///
/// The slot is `head (224 bits) || hold (1 bit) || next round (31 bits)`. While the hold bit is set (the member left or
/// was removed, or the session is paused or closed) the last 32 bits exceed every round, so that `record` needs to read
/// no other slot. The hold bit is not part of the hash chain: a slot is hashed with the bit cleared.
interface IFederatedLedger {
    /// @notice The life of a session.
    enum State {
        Unknown,
        Open,
        Paused,
        Closed
    }

    /// @notice How an account stands to a session.
    enum Standing {
        Stranger,
        Admitted,
        Active,
        Left,
        Removed
    }

    /// @notice What the contract knows of a session.
    /// @param creator the account that may admit, remove, pause, resume and close
    /// @param state open, paused or closed
    /// @param admission whether only accounts that the creator admitted may join
    /// @param memberCount members that ever joined, which is also the next index
    /// @param heldCount members, counted from index 0, that the pause or the close has reached so far
    /// @param createdBlock the block of creation: no event of the session is older
    /// @param configHash SHA-256 of the session file
    struct Session {
        address creator;
        State state;
        bool admission;
        uint16 memberCount;
        uint16 heldCount;
        uint40 createdBlock;
        bytes32 configHash;
    }

    /// @notice One record of a batch, see `record`.
    struct Entry {
        uint32 round;
        bytes32 updateHash;
        bytes mix;
    }

    // ---- events ----

    /// @notice A session was created.
    /// @param sessionId first 8 bytes of keccak256(creator || configHash)
    /// @param creator the account that may admit, remove, pause, resume and close
    /// @param configHash SHA-256 of the session file
    /// @param admission whether only accounts that the creator admitted may join
    /// @param configCid where the session file can be had, or empty
    event SessionCreated(
        uint64 indexed sessionId,
        address indexed creator,
        bytes32 configHash,
        bool admission,
        string configCid
    );
    /// @notice The creator paused the session: from the first call on nobody joins, and held members can't record.
    /// @param sessionId the session
    event SessionPaused(uint64 indexed sessionId);
    /// @notice The creator resumed the session, and every active member's slot was released.
    /// @param sessionId the session
    event SessionResumed(uint64 indexed sessionId);
    /// @notice The creator closed the session for good.
    /// @param sessionId the session
    event SessionClosed(uint64 indexed sessionId);
    /// @notice The creator allowed an account to join, or a removed member to return.
    /// @param sessionId the session
    /// @param account the Ethereum account
    event AccountAdmitted(uint64 indexed sessionId, address indexed account);
    /// @notice An account became a member.
    /// @param sessionId the session
    /// @param account the member's Ethereum account
    /// @param index 0, 1, 2, ... in the order of joining
    /// @param peerKey the member's raw Ed25519 public key on libp2p
    /// @param binding that key's signature over session and account; the contract can't verify it, every reader must
    /// @param addresses multiaddrs, separated by a blank
    event MemberJoined(
        uint64 indexed sessionId,
        address indexed account,
        uint16 index,
        bytes32 peerKey,
        bytes binding,
        string addresses
    );
    /// @notice A member left of its own accord.
    /// @param sessionId the session
    /// @param account the Ethereum account
    event MemberLeft(uint64 indexed sessionId, address indexed account);
    /// @notice The creator removed a member.
    /// @param sessionId the session
    /// @param account the Ethereum account
    event MemberRemoved(uint64 indexed sessionId, address indexed account);
    /// @notice A member that had left came back, under its old index, peer key and chain of records.
    /// @param sessionId the session
    /// @param account the Ethereum account
    /// @param addresses multiaddrs, separated by a blank
    event MemberReturned(uint64 indexed sessionId, address indexed account, string addresses);
    /// @notice A member can be reached elsewhere.
    /// @param sessionId the session
    /// @param account the Ethereum account
    /// @param addresses multiaddrs, separated by a blank
    event AddressesChanged(uint64 indexed sessionId, address indexed account, string addresses);
    /// @notice A member committed to its update of a round and reported the mix of its previous round.
    /// @dev One field, so that what is logged is what is hashed, and a record costs 800 gas less than with five.
    /// @param sessionId the session
    /// @param entry account (20 bytes) || round (4) || update hash (32) || mix (docs/protocol.md, section 7); the update
    /// hash is zero in a closing record, whose round is the one after the member's last
    event Recorded(uint64 indexed sessionId, bytes entry);

    // ---- errors ----

    error SessionDoesNotExist(uint64 sessionId);
    error SessionAlreadyExists(uint64 sessionId);
    error SessionIsNotOpen(uint64 sessionId, State state);
    error SessionIsClosed(uint64 sessionId);
    error SessionIsNotPaused(uint64 sessionId, State state);
    error EveryMemberIsHeldAlready(uint64 sessionId, uint16 heldCount);
    error SessionIsFull(uint64 sessionId, uint16 memberCount);
    error OnlyTheCreatorMayDoThat(uint64 sessionId, address caller, address creator);
    error AccountIsNotAdmitted(uint64 sessionId, address account, Standing standing);
    error AccountIsAMemberAlready(uint64 sessionId, address account, Standing standing);
    error AccountIsNotAMember(uint64 sessionId, address account, Standing standing);
    error AccountHasNotLeft(uint64 sessionId, address account, Standing standing);
    error NoMemberHasThatIndex(uint64 sessionId, uint16 index, uint16 memberCount);
    error PeerKeyIsZero(uint64 sessionId, address account);
    error BindingIsNot64Bytes(uint256 length);
    error AddressesAreTooLong(uint256 length, uint256 longest);
    error RoundIsRecordedAlready(uint32 round, uint32 nextRound);
    error RoundIsTooLarge(uint32 round, uint32 largest);
    error RecordIsEmpty(uint32 round);
    error SlotHasChanged(uint256 expected, uint256 found);

    // ---- sessions ----

    /// @notice Creates the session whose id is derived from the caller and the hash of the session file.
    /// @param configHash SHA-256 of the session file
    /// @param admission whether only accounts that the creator admits may join
    /// @param configCid where the session file can be had, or empty
    /// @return sessionId the id that `sessionIdOf` gives
    function createSession(
        bytes32 configHash,
        bool admission,
        string calldata configCid
    ) external returns (uint64 sessionId);

    /// @notice Stops joining at once, and recording by up to `most` further members. Call it again until
    /// `heldCount == memberCount`: pausing costs gas per member so that recording costs none for it.
    /// @param sessionId the session
    /// @param most members that this transaction reaches at most
    function pause(uint64 sessionId, uint16 most) external;

    /// @notice Releases up to `most` further members; the session is open again once all of them are.
    /// @param sessionId the session
    /// @param most members that this transaction reaches at most
    function resume(uint64 sessionId, uint16 most) external;

    /// @notice Closes the session for good, and stops up to `most` further members; call it again as for `pause`.
    /// @param sessionId the session
    /// @param most members that this transaction reaches at most
    function close(uint64 sessionId, uint16 most) external;

    // ---- members ----

    /// @notice Allows accounts to join, or removed members to return.
    /// @param sessionId the session
    /// @param accounts who may join or return
    function admit(uint64 sessionId, address[] calldata accounts) external;

    /// @notice Makes the caller a member.
    /// @param sessionId the session
    /// @param peerKey its raw Ed25519 public key on libp2p
    /// @param binding that key's 64-byte signature over session and account
    /// @param addresses multiaddrs, separated by a blank
    /// @return index of the member
    function join(
        uint64 sessionId,
        bytes32 peerKey,
        bytes calldata binding,
        string calldata addresses
    ) external returns (uint16 index);

    /// @notice Ends the caller's part in the session; its records stay.
    /// @param sessionId the session
    function quit(uint64 sessionId) external;

    /// @notice Takes a member that left back in, under its old index, key and chain of records.
    /// @param sessionId the session
    /// @param addresses multiaddrs, separated by a blank
    function rejoin(uint64 sessionId, string calldata addresses) external;

    /// @notice Ends a member's part in the session; its records stay.
    /// @param sessionId the session
    /// @param account the member's
    function remove(uint64 sessionId, address account) external;

    /// @notice Tells the others where the caller can be reached.
    /// @param sessionId the session
    /// @param addresses multiaddrs, separated by a blank
    function setAddresses(uint64 sessionId, string calldata addresses) external;

    // ---- records ----

    /// @notice Commits to the caller's update of a round, and reports the mix of its previous round.
    /// @dev One word for session and round, since a word of calldata costs 150 gas however little it says.
    /// @param step session id (64 bits) || round (32 bits); the round is not below the caller's next round
    /// @param updateHash SHA-256 of the update's payload, or zero for a closing record, which uses up no round
    /// @param mix the mix of the previous round, or empty
    function record(uint96 step, bytes32 updateHash, bytes calldata mix) external;

    /// @notice Records several rounds at once, or none if the caller's slot is not `slot`: what a sender that does not
    /// know the fate of an earlier transaction can safely send again.
    /// @param sessionId the session
    /// @param slot the caller's slot as it must be
    /// @param entries the records, in order
    function recordAfter(uint64 sessionId, uint256 slot, Entry[] calldata entries) external;

    // ---- views ----

    /// @notice The id of the session that `creator` creates with `configHash`.
    /// @param creator who creates the session
    /// @param configHash SHA-256 of the session file
    /// @return sessionId first 8 bytes of keccak256(creator || configHash)
    function sessionIdOf(address creator, bytes32 configHash) external pure returns (uint64 sessionId);

    /// @notice What the contract knows of a session; `state` is Unknown where there is none.
    /// @param sessionId the session
    /// @return found all of it
    function session(uint64 sessionId) external view returns (Session memory found);

    /// @notice A member's slot, `head || hold || next round`; zero for an account that never joined.
    /// @param sessionId the session
    /// @param account the member's
    /// @return slot the slot, or zero
    function slotOf(uint64 sessionId, address account) external view returns (uint256 slot);

    /// @notice A member's index and standing.
    /// @param sessionId the session
    /// @param account the member's
    /// @return index of the member, zero for who never joined
    /// @return standing how the account stands to the session
    function memberOf(uint64 sessionId, address account) external view returns (uint16 index, Standing standing);

    /// @notice The account of the member with an index.
    /// @param sessionId the session
    /// @param index 0, 1, 2, ... in the order of joining
    /// @return account the member's
    function memberAt(uint64 sessionId, uint16 index) external view returns (address account);
}
