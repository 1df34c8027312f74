// A deployed ledger, funded accounts, and checks that name what a call did. Works on Hardhat's network and on Anvil.
'use strict';
const assert = require('node:assert/strict');
const {
  BrowserProvider, ContractFactory, ZeroHash, concat, id, keccak256, sha256, solidityPackedKeccak256, toBeHex, toUtf8Bytes,
} = require('ethers');
const hre = require('hardhat');

const PEER_KEY = id('a peer key');
const BINDING = concat([id('a binding'), id('a binding')]);
const ADDRESS = '/ip4/127.0.0.1/tcp/4001';
const CONFIG = sha256(toUtf8Bytes('a session file'));
const HOLD = 1n << 31n;

async function deploy() {
  const provider = new BrowserProvider(hre.network.provider, undefined, { cacheTimeout: -1 });
  const signers = await Promise.all([0, 1, 2, 3].map((i) => provider.getSigner(i)));
  const { abi, bytecode } = await hre.artifacts.readArtifact('FederatedLedger');
  const ledger = await (await new ContractFactory(abi, bytecode, signers[0]).deploy()).waitForDeployment();
  const [creator, alice, bob, stranger] = signers;
  return { provider, ledger, creator, alice, bob, stranger };
}

/** Sends a transaction; gives the names and arguments of the events it left. */
async function events(sending) {
  const transaction = await sending;
  const receipt = await transaction.wait();
  const { ledger } = deployed;
  return receipt.logs.map((log) => ledger.interface.parseLog(log)).map((log) => [log.name, ...log.args]);
}

let deployed;

/** A fresh contract for each test: tests never see each other's sessions. */
function useLedger() {
  beforeEach(async () => {
    deployed = await deploy();
  });
  return () => deployed;
}

/** Checks that the call reverts with exactly this custom error. */
async function reverts(call, name, ...args) {
  try {
    await call;
  } catch (error) {
    const data = error.data ?? error.info?.error?.data?.data ?? error.info?.error?.data;
    const found = deployed.ledger.interface.parseError(data);
    assert.deepEqual([found?.name, ...(found?.args ?? [])], [name, ...args]);
    return;
  }
  assert.fail(`it did not revert with ${name}`);
}

const headOf = (hash) => (BigInt(hash) >> 32n) << 32n;

/** The slot of a member that just joined. */
function firstSlot(account, sessionId, index) {
  const types = ['uint256', 'address', 'uint64', 'uint16', 'bytes32', 'bytes'];
  return headOf(solidityPackedKeccak256(types, [0, account, sessionId, index, PEER_KEY, BINDING]));
}

/** The slot after a record. */
function nextSlot(slot, account, round, updateHash, mix) {
  const hash = keccak256(concat([toBeHex(slot, 32), account, toBeHex(round, 4), updateHash, mix]));
  return headOf(hash) | BigInt(updateHash === ZeroHash ? round : round + 1);
}

module.exports = { ADDRESS, BINDING, CONFIG, HOLD, PEER_KEY, events, firstSlot, nextSlot, reverts, useLedger };
