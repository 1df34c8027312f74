// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {IFederatedLedger} from "./interfaces/IFederatedLedger.sol";

/// @title The log of federated sessions
/// @notice Has no owner, takes no ether, calls no other contract and cannot be upgraded.
contract FederatedLedger is IFederatedLedger {
    struct Membership {
        uint16 index;
        Standing standing;
    }

    /// @dev A struct, so that a storage pointer to it is computed once per record.
    struct Cell {
        uint256 slot;
    }

    uint256 private constant HOLD = 1 << 31;
    uint32 private constant LARGEST_ROUND = (1 << 31) - 2;
    uint256 private constant LONGEST_ADDRESSES = 2048;

    mapping(uint64 sessionId => Session) private _sessions;
    mapping(uint64 sessionId => mapping(uint16 index => address)) private _accounts;
    mapping(uint64 sessionId => mapping(address account => Membership)) private _memberships;
    mapping(uint256 sessionAndAccount => Cell) private _cells;

    // ---- records ----

    /// @inheritdoc IFederatedLedger
    function record(uint96 step, bytes32 updateHash, bytes calldata mix) external {
        uint64 sessionId = uint64(step >> 32);
        Cell storage cell = _cells[_key(sessionId, msg.sender)];
        cell.slot = _append(sessionId, cell.slot, uint32(step), updateHash, mix);
    }

    /// @inheritdoc IFederatedLedger
    function recordAfter(uint64 sessionId, uint256 slot, Entry[] calldata entries) external {
        Cell storage cell = _cells[_key(sessionId, msg.sender)];
        uint256 found = cell.slot;
        if (found != slot) revert SlotHasChanged(slot, found);
        for (uint256 i = 0; i < entries.length; ++i) {
            Entry calldata entry = entries[i];
            found = _append(sessionId, found, entry.round, entry.updateHash, entry.mix);
        }
        cell.slot = found;
    }

    /// @dev The slot after a record. A slot that is zero or held is refused here without reading another one.
    function _append(
        uint64 sessionId,
        uint256 slot,
        uint32 round,
        bytes32 updateHash,
        bytes calldata mix
    ) private returns (uint256 next) {
        if (round < uint32(slot) || slot == 0) _refuse(sessionId, round, slot);
        if (round > LARGEST_ROUND) revert RoundIsTooLarge(round, LARGEST_ROUND);
        next = round;
        if (updateHash != 0) {
            unchecked {
                ++next; // round <= LARGEST_ROUND, so this never reaches the hold bit
            }
        } else if (mix.length == 0) {
            revert RecordIsEmpty(round);
        }
        bytes memory entry = abi.encodePacked(msg.sender, round, updateHash, mix);
        emit Recorded(sessionId, entry);
        next |= _head(keccak256(abi.encodePacked(slot, entry)));
    }

    /// @dev Finds out why a record was refused; reads storage only on this path, which reverts.
    function _refuse(uint64 sessionId, uint32 round, uint256 slot) private view {
        Session storage found = _existing(sessionId);
        Standing standing = _memberships[sessionId][msg.sender].standing;
        if (standing != Standing.Active) revert AccountIsNotAMember(sessionId, msg.sender, standing);
        if (slot & HOLD != 0) revert SessionIsNotOpen(sessionId, found.state);
        revert RoundIsRecordedAlready(round, uint32(slot));
    }

    // ---- sessions ----

    /// @inheritdoc IFederatedLedger
    function createSession(
        bytes32 configHash,
        bool admission,
        string calldata configCid
    ) external returns (uint64 sessionId) {
        sessionId = sessionIdOf(msg.sender, configHash);
        if (_sessions[sessionId].state != State.Unknown) revert SessionAlreadyExists(sessionId);
        _sessions[sessionId] = Session({
            creator: msg.sender,
            state: State.Open,
            admission: admission,
            memberCount: 0,
            heldCount: 0,
            createdBlock: uint40(block.number),
            configHash: configHash
        });
        emit SessionCreated(sessionId, msg.sender, configHash, admission, configCid);
    }

    /// @inheritdoc IFederatedLedger
    function pause(uint64 sessionId, uint16 most) external {
        Session storage found = _owned(sessionId);
        if (found.state == State.Closed) revert SessionIsClosed(sessionId);
        if (found.state == State.Open) {
            found.state = State.Paused;
            emit SessionPaused(sessionId);
        } else {
            _requireUnheld(sessionId, found);
        }
        _hold(sessionId, found, most);
    }

    /// @inheritdoc IFederatedLedger
    function close(uint64 sessionId, uint16 most) external {
        Session storage found = _owned(sessionId);
        if (found.state != State.Closed) {
            found.state = State.Closed;
            emit SessionClosed(sessionId);
        } else {
            _requireUnheld(sessionId, found);
        }
        _hold(sessionId, found, most);
    }

    /// @inheritdoc IFederatedLedger
    function resume(uint64 sessionId, uint16 most) external {
        Session storage found = _owned(sessionId);
        if (found.state != State.Paused) revert SessionIsNotPaused(sessionId, found.state);
        uint16 held = found.heldCount;
        for (; held > 0 && most > 0; --most) {
            --held;
            address account = _accounts[sessionId][held];
            if (_memberships[sessionId][account].standing == Standing.Active) _cells[_key(sessionId, account)].slot &= ~HOLD;
        }
        found.heldCount = held;
        if (held == 0) {
            found.state = State.Open;
            emit SessionResumed(sessionId);
        }
    }

    function _hold(uint64 sessionId, Session storage found, uint16 most) private {
        uint16 held = found.heldCount;
        uint16 count = found.memberCount;
        for (; held < count && most > 0; --most) {
            _cells[_key(sessionId, _accounts[sessionId][held])].slot |= HOLD;
            ++held;
        }
        found.heldCount = held;
    }

    // ---- members ----

    /// @inheritdoc IFederatedLedger
    function admit(uint64 sessionId, address[] calldata accounts) external {
        _owned(sessionId);
        for (uint256 i = 0; i < accounts.length; ++i) {
            Membership storage member = _memberships[sessionId][accounts[i]];
            Standing standing = member.standing;
            if (standing == Standing.Stranger) member.standing = Standing.Admitted;
            else if (standing == Standing.Removed) member.standing = Standing.Left;
            else revert AccountIsAMemberAlready(sessionId, accounts[i], standing);
            emit AccountAdmitted(sessionId, accounts[i]);
        }
    }

    /// @inheritdoc IFederatedLedger
    function join(
        uint64 sessionId,
        bytes32 peerKey,
        bytes calldata binding,
        string calldata addresses
    ) external returns (uint16 index) {
        Session storage found = _open(sessionId);
        Membership storage member = _memberships[sessionId][msg.sender];
        _requireMayJoin(sessionId, found.admission, member.standing);
        if (peerKey == 0) revert PeerKeyIsZero(sessionId, msg.sender);
        if (binding.length != 64) revert BindingIsNot64Bytes(binding.length);
        _requireShort(addresses);
        index = found.memberCount;
        if (index == type(uint16).max) revert SessionIsFull(sessionId, index);
        found.memberCount = index + 1;
        _accounts[sessionId][index] = msg.sender;
        member.index = index;
        member.standing = Standing.Active;
        bytes32 first = keccak256(abi.encodePacked(uint256(0), msg.sender, sessionId, index, peerKey, binding));
        _cells[_key(sessionId, msg.sender)].slot = _head(first);
        emit MemberJoined(sessionId, msg.sender, index, peerKey, binding, addresses);
    }

    /// @inheritdoc IFederatedLedger
    function quit(uint64 sessionId) external {
        _end(sessionId, msg.sender, Standing.Left);
        emit MemberLeft(sessionId, msg.sender);
    }

    /// @inheritdoc IFederatedLedger
    function remove(uint64 sessionId, address account) external {
        _owned(sessionId);
        _end(sessionId, account, Standing.Removed);
        emit MemberRemoved(sessionId, account);
    }

    /// @inheritdoc IFederatedLedger
    function rejoin(uint64 sessionId, string calldata addresses) external {
        _open(sessionId);
        Membership storage member = _memberships[sessionId][msg.sender];
        if (member.standing != Standing.Left) revert AccountHasNotLeft(sessionId, msg.sender, member.standing);
        _requireShort(addresses);
        member.standing = Standing.Active;
        _cells[_key(sessionId, msg.sender)].slot &= ~HOLD;
        emit MemberReturned(sessionId, msg.sender, addresses);
    }

    /// @inheritdoc IFederatedLedger
    function setAddresses(uint64 sessionId, string calldata addresses) external {
        _active(sessionId, msg.sender);
        _requireShort(addresses);
        emit AddressesChanged(sessionId, msg.sender, addresses);
    }

    function _end(uint64 sessionId, address account, Standing standing) private {
        _active(sessionId, account).standing = standing;
        _cells[_key(sessionId, account)].slot |= HOLD;
    }

    // ---- views ----

    /// @inheritdoc IFederatedLedger
    function session(uint64 sessionId) external view returns (Session memory found) {
        return _sessions[sessionId];
    }

    /// @inheritdoc IFederatedLedger
    function slotOf(uint64 sessionId, address account) external view returns (uint256 slot) {
        return _cells[_key(sessionId, account)].slot;
    }

    /// @inheritdoc IFederatedLedger
    function memberOf(uint64 sessionId, address account) external view returns (uint16 index, Standing standing) {
        Membership storage member = _memberships[sessionId][account];
        return (member.index, member.standing);
    }

    /// @inheritdoc IFederatedLedger
    function memberAt(uint64 sessionId, uint16 index) external view returns (address account) {
        account = _accounts[sessionId][index];
        if (account == address(0)) revert NoMemberHasThatIndex(sessionId, index, _sessions[sessionId].memberCount);
    }

    /// @inheritdoc IFederatedLedger
    function sessionIdOf(address creator, bytes32 configHash) public pure returns (uint64 sessionId) {
        return uint64(bytes8(keccak256(abi.encodePacked(creator, configHash))));
    }

    // ---- what must hold ----

    function _existing(uint64 sessionId) private view returns (Session storage found) {
        found = _sessions[sessionId];
        if (found.state == State.Unknown) revert SessionDoesNotExist(sessionId);
    }

    function _open(uint64 sessionId) private view returns (Session storage found) {
        found = _existing(sessionId);
        if (found.state != State.Open) revert SessionIsNotOpen(sessionId, found.state);
    }

    function _owned(uint64 sessionId) private view returns (Session storage found) {
        found = _existing(sessionId);
        if (found.creator != msg.sender) revert OnlyTheCreatorMayDoThat(sessionId, msg.sender, found.creator);
    }

    function _active(uint64 sessionId, address account) private view returns (Membership storage member) {
        _existing(sessionId);
        member = _memberships[sessionId][account];
        if (member.standing != Standing.Active) revert AccountIsNotAMember(sessionId, account, member.standing);
    }

    function _requireUnheld(uint64 sessionId, Session storage found) private view {
        if (found.heldCount == found.memberCount) revert EveryMemberIsHeldAlready(sessionId, found.heldCount);
    }

    function _requireMayJoin(uint64 sessionId, bool admission, Standing standing) private view {
        if (standing > Standing.Admitted) revert AccountIsAMemberAlready(sessionId, msg.sender, standing);
        if (admission && standing == Standing.Stranger) revert AccountIsNotAdmitted(sessionId, msg.sender, standing);
    }

    function _requireShort(string calldata addresses) private pure {
        uint256 length = bytes(addresses).length;
        if (length > LONGEST_ADDRESSES) revert AddressesAreTooLong(length, LONGEST_ADDRESSES);
    }

    function _key(uint64 sessionId, address account) private pure returns (uint256 key) {
        return (uint256(sessionId) << 160) | uint160(account);
    }

    /// @dev The first 28 bytes of a hash, in a slot's place for the head.
    function _head(bytes32 hash) private pure returns (uint256 slot) {
        return (uint256(hash) >> 32) << 32;
    }
}
