// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title The log that one writes first: structs and arrays in storage. Only here to be compared with.
contract NaiveLedger {
    struct Entry {
        address account;
        uint32 round;
        bytes32 updateHash;
        bytes32 mixedHash;
        bytes32 snapshot;
        uint16[] peers;
        uint16[] weights;
    }

    mapping(uint64 sessionId => Entry[]) private _entries;

    /// @notice Keeps a record.
    function record(uint64 sessionId, Entry calldata entry) external {
        _entries[sessionId].push(entry);
    }
}
