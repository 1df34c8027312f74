// The contract against its interface: every function, every event, every error with its arguments.
'use strict';
const assert = require('node:assert/strict');
const { ZeroAddress, ZeroHash, concat, id, solidityPackedKeccak256 } = require('ethers');
const { ADDRESS, BINDING, CONFIG, HOLD, PEER_KEY, events, firstSlot, nextSlot, reverts, useLedger } = require('./fixture');

const [UNKNOWN, OPEN, PAUSED, CLOSED] = [0n, 1n, 2n, 3n];
const [STRANGER, ADMITTED, ACTIVE, LEFT, REMOVED] = [0n, 1n, 2n, 3n, 4n];
const LARGEST = (1n << 31n) - 2n;
const MIX = '0x00000401';

describe('FederatedLedger', () => {
  const get = useLedger();

  async function createSession(admission = false) {
    const { ledger, creator } = get();
    const sessionId = await ledger.sessionIdOf(creator.address, CONFIG);
    await (await ledger.createSession(CONFIG, admission, 'a cid')).wait();
    return sessionId;
  }

  const join = (who, sessionId) => get().ledger.connect(who).join(sessionId, PEER_KEY, BINDING, ADDRESS);
  const as = (who) => get().ledger.connect(who);
  const stepOf = (sessionId, round) => (BigInt(sessionId) << 32n) | BigInt(round);
  const slotOf = (sessionId, who) => get().ledger.slotOf(sessionId, who.address);

  describe('a session', () => {
    it('has an id that is derived from its creator and file, and is told in full', async () => {
      const { ledger, creator, provider } = get();
      const sessionId = BigInt(solidityPackedKeccak256(['address', 'bytes32'], [creator.address, CONFIG])) >> 192n;
      assert.deepEqual(await events(ledger.createSession(CONFIG, true, 'a cid')), [
        ['SessionCreated', sessionId, creator.address, CONFIG, true, 'a cid'],
      ]);
      const block = BigInt(await provider.getBlockNumber());
      assert.deepEqual([...(await ledger.session(sessionId))], [creator.address, OPEN, true, 0n, 0n, block, CONFIG]);
      assert.equal((await ledger.session(sessionId + 1n)).state, UNKNOWN);
    });

    it('is created once', async () => {
      const sessionId = await createSession();
      await reverts(get().ledger.createSession.staticCall(CONFIG, false, ''), 'SessionAlreadyExists', sessionId);
    });

    it('is paused, resumed and closed by its creator only', async () => {
      const { creator, alice } = get();
      const sessionId = await createSession();
      for (const name of ['pause', 'resume', 'close']) {
        const refused = ['OnlyTheCreatorMayDoThat', sessionId, alice.address, creator.address];
        await reverts(as(alice)[name].staticCall(sessionId, 10), ...refused);
        await reverts(as(alice)[name].staticCall(7, 10), 'SessionDoesNotExist', 7n);
      }
    });

    it('takes no member and no record while it is paused, and goes on where it was', async () => {
      const { ledger, alice, bob } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      await as(alice).record(stepOf(sessionId, 1), id('update'), '0x');
      const before = await slotOf(sessionId, alice);
      assert.deepEqual(await events(ledger.pause(sessionId, 10)), [['SessionPaused', sessionId]]);
      assert.equal(await slotOf(sessionId, alice), before | HOLD);
      await reverts(as(bob).join.staticCall(sessionId, PEER_KEY, BINDING, ''), 'SessionIsNotOpen', sessionId, PAUSED);
      await reverts(as(alice).record.staticCall(stepOf(sessionId, 2), id('x'), '0x'), 'SessionIsNotOpen', sessionId, PAUSED);
      await reverts(ledger.pause.staticCall(sessionId, 10), 'EveryMemberIsHeldAlready', sessionId, 1n);
      assert.deepEqual(await events(ledger.resume(sessionId, 10)), [['SessionResumed', sessionId]]);
      assert.equal(await slotOf(sessionId, alice), before);
      await reverts(ledger.resume.staticCall(sessionId, 10), 'SessionIsNotPaused', sessionId, OPEN);
      await as(alice).record(stepOf(sessionId, 2), id('next'), MIX);
    });

    it('reaches its members page by page, so that no number of members makes pausing impossible', async () => {
      const { ledger, alice, bob, stranger } = get();
      const sessionId = await createSession();
      for (const who of [alice, bob, stranger]) await join(who, sessionId);
      await ledger.pause(sessionId, 2);
      assert.equal((await ledger.session(sessionId)).heldCount, 2n);
      assert.equal((await slotOf(sessionId, stranger)) & HOLD, 0n);
      await ledger.pause(sessionId, 2);
      assert.equal((await slotOf(sessionId, stranger)) & HOLD, HOLD);
      assert.deepEqual(await events(ledger.resume(sessionId, 2)), []);
      assert.equal((await ledger.session(sessionId)).state, PAUSED);
      assert.deepEqual(await events(ledger.resume(sessionId, 2)), [['SessionResumed', sessionId]]);
    });

    it('is closed for good', async () => {
      const { ledger, alice } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      await ledger.pause(sessionId, 0);
      assert.deepEqual(await events(ledger.close(sessionId, 10)), [['SessionClosed', sessionId]]);
      await reverts(ledger.close.staticCall(sessionId, 10), 'EveryMemberIsHeldAlready', sessionId, 1n);
      await reverts(ledger.pause.staticCall(sessionId, 10), 'SessionIsClosed', sessionId);
      await reverts(ledger.resume.staticCall(sessionId, 10), 'SessionIsNotPaused', sessionId, CLOSED);
      await reverts(as(alice).record.staticCall(stepOf(sessionId, 1), id('x'), '0x'), 'SessionIsNotOpen', sessionId, CLOSED);
      await as(alice).quit(sessionId);
      await reverts(as(alice).rejoin.staticCall(sessionId, ''), 'SessionIsNotOpen', sessionId, CLOSED);
    });
  });

  describe('a member', () => {
    it('gets the next index, and a slot that begins with its key and binding', async () => {
      const { ledger, alice, bob } = get();
      const sessionId = await createSession();
      assert.deepEqual(await events(join(alice, sessionId)), [
        ['MemberJoined', sessionId, alice.address, 0n, PEER_KEY, BINDING, ADDRESS],
      ]);
      await join(bob, sessionId);
      assert.deepEqual([...(await ledger.memberOf(sessionId, bob.address))], [1n, ACTIVE]);
      assert.equal(await ledger.memberAt(sessionId, 1), bob.address);
      await reverts(ledger.memberAt(sessionId, 2), 'NoMemberHasThatIndex', sessionId, 2n, 2n);
      assert.equal(await slotOf(sessionId, bob), firstSlot(bob.address, sessionId, 1));
    });

    it('joins once, with a key, a binding of 64 bytes and short addresses', async () => {
      const { ledger, alice } = get();
      const sessionId = await createSession();
      const call = as(alice).join.staticCall;
      await reverts(call(7, PEER_KEY, BINDING, ''), 'SessionDoesNotExist', 7n);
      await reverts(call(sessionId, ZeroHash, BINDING, ''), 'PeerKeyIsZero', sessionId, alice.address);
      await reverts(call(sessionId, PEER_KEY, '0x12', ''), 'BindingIsNot64Bytes', 1n);
      await reverts(call(sessionId, PEER_KEY, BINDING, 'x'.repeat(2049)), 'AddressesAreTooLong', 2049n, 2048n);
      await join(alice, sessionId);
      await reverts(call(sessionId, PEER_KEY, BINDING, ''), 'AccountIsAMemberAlready', sessionId, alice.address, ACTIVE);
      assert.equal((await ledger.session(sessionId)).memberCount, 1n);
    });

    it('must be admitted where the creator says so', async () => {
      const { ledger, creator, alice } = get();
      const sessionId = await createSession(true);
      const refused = ['AccountIsNotAdmitted', sessionId, alice.address, STRANGER];
      await reverts(as(alice).join.staticCall(sessionId, PEER_KEY, BINDING, ''), ...refused);
      const admitting = as(alice).admit.staticCall(sessionId, [alice.address]);
      await reverts(admitting, 'OnlyTheCreatorMayDoThat', sessionId, alice.address, creator.address);
      assert.deepEqual(await events(ledger.admit(sessionId, [alice.address])), [
        ['AccountAdmitted', sessionId, alice.address],
      ]);
      const again = ['AccountIsAMemberAlready', sessionId, alice.address, ADMITTED];
      await reverts(ledger.admit.staticCall(sessionId, [alice.address]), ...again);
      await join(alice, sessionId);
    });

    it('leaves and comes back to its own chain', async () => {
      const { alice } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      await as(alice).record(stepOf(sessionId, 3), id('update'), '0x');
      const before = await slotOf(sessionId, alice);
      await reverts(as(alice).rejoin.staticCall(sessionId, ''), 'AccountHasNotLeft', sessionId, alice.address, ACTIVE);
      assert.deepEqual(await events(as(alice).quit(sessionId)), [['MemberLeft', sessionId, alice.address]]);
      const refused = ['AccountIsNotAMember', sessionId, alice.address, LEFT];
      await reverts(as(alice).record.staticCall(stepOf(sessionId, 4), id('x'), '0x'), ...refused);
      await reverts(as(alice).quit.staticCall(sessionId), ...refused);
      await reverts(as(alice).setAddresses.staticCall(sessionId, ''), ...refused);
      const back = await events(as(alice).rejoin(sessionId, 'elsewhere'));
      assert.deepEqual(back, [['MemberReturned', sessionId, alice.address, 'elsewhere']]);
      assert.equal(await slotOf(sessionId, alice), before);
    });

    it('that was removed comes back only if it is admitted again', async () => {
      const { ledger, alice, bob } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      await reverts(ledger.remove.staticCall(sessionId, bob.address), 'AccountIsNotAMember', sessionId, bob.address, STRANGER);
      assert.deepEqual(await events(ledger.remove(sessionId, alice.address)), [
        ['MemberRemoved', sessionId, alice.address],
      ]);
      await reverts(as(alice).rejoin.staticCall(sessionId, ''), 'AccountHasNotLeft', sessionId, alice.address, REMOVED);
      await ledger.admit(sessionId, [alice.address]);
      await as(alice).rejoin(sessionId, '');
      assert.deepEqual([...(await ledger.memberOf(sessionId, alice.address))], [0n, ACTIVE]);
    });

    it('that left during a pause stays held when the session is resumed', async () => {
      const { ledger, alice } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      await ledger.pause(sessionId, 10);
      await as(alice).quit(sessionId);
      await ledger.resume(sessionId, 10);
      const refused = ['AccountIsNotAMember', sessionId, alice.address, LEFT];
      await reverts(as(alice).record.staticCall(stepOf(sessionId, 1), id('x'), '0x'), ...refused);
    });

    it('tells where it can be reached', async () => {
      const { alice } = get();
      const sessionId = await createSession();
      await join(alice, sessionId);
      const told = await events(as(alice).setAddresses(sessionId, 'there'));
      assert.deepEqual(told, [['AddressesChanged', sessionId, alice.address, 'there']]);
      await reverts(as(alice).setAddresses.staticCall(sessionId, 'x'.repeat(3000)), 'AddressesAreTooLong', 3000n, 2048n);
    });
  });

  describe('a record', () => {
    async function started() {
      const sessionId = await createSession();
      await join(get().alice, sessionId);
      return sessionId;
    }

    it('is logged as it is hashed, and moves the chain of its member only', async () => {
      const { alice, bob } = get();
      const sessionId = await started();
      await join(bob, sessionId);
      const told = await events(as(alice).record(stepOf(sessionId, 5), id('update'), MIX));
      assert.deepEqual(told, [['Recorded', sessionId, concat([alice.address, '0x00000005', id('update'), MIX])]]);
      const first = firstSlot(alice.address, sessionId, 0);
      assert.equal(await slotOf(sessionId, alice), nextSlot(first, alice.address, 5, id('update'), MIX));
      assert.equal(await slotOf(sessionId, bob), firstSlot(bob.address, sessionId, 1));
    });

    it('goes up in rounds, and may skip some', async () => {
      const { alice } = get();
      const sessionId = await started();
      await as(alice).record(stepOf(sessionId, 5), id('update'), '0x');
      for (const round of [0n, 5n]) {
        await reverts(as(alice).record.staticCall(stepOf(sessionId, round), id('x'), '0x'), 'RoundIsRecordedAlready', round, 6n);
      }
      await as(alice).record(stepOf(sessionId, 9), id('later'), MIX);
      assert.equal((await slotOf(sessionId, alice)) & 0xffffffffn, 10n);
    });

    it('that closes uses up no round, and must carry a mix', async () => {
      const { alice } = get();
      const sessionId = await started();
      await as(alice).record(stepOf(sessionId, 1), id('update'), '0x');
      await reverts(as(alice).record.staticCall(stepOf(sessionId, 2), ZeroHash, '0x'), 'RecordIsEmpty', 2n);
      await as(alice).record(stepOf(sessionId, 2), ZeroHash, MIX);
      assert.equal((await slotOf(sessionId, alice)) & 0xffffffffn, 2n);
      await as(alice).record(stepOf(sessionId, 2), id('going on'), '0x');
    });

    it('has a round that never reaches the hold bit', async () => {
      const { alice } = get();
      const sessionId = await started();
      const tooLarge = as(alice).record.staticCall(stepOf(sessionId, LARGEST + 1n), id('x'), '0x');
      await reverts(tooLarge, 'RoundIsTooLarge', LARGEST + 1n, LARGEST);
      await as(alice).record(stepOf(sessionId, LARGEST), id('last'), '0x');
      assert.equal((await slotOf(sessionId, alice)) & 0xffffffffn, LARGEST + 1n);
    });

    it('of somebody who never joined is refused', async () => {
      const { stranger } = get();
      const sessionId = await started();
      const call = as(stranger).record.staticCall;
      await reverts(call(stepOf(sessionId, 1), id('x'), '0x'), 'AccountIsNotAMember', sessionId, stranger.address, STRANGER);
      await reverts(call(stepOf(7, 1), id('x'), '0x'), 'SessionDoesNotExist', 7n);
    });

    it('can be sent with others after a known slot, all of them or none', async () => {
      const { alice } = get();
      const sessionId = await started();
      const entries = [[1, id('one'), '0x'], [2, id('two'), MIX], [3, ZeroHash, MIX]];
      const first = await slotOf(sessionId, alice);
      const expected = entries.reduce((slot, entry) => nextSlot(slot, alice.address, ...entry), first);
      const told = await events(as(alice).recordAfter(sessionId, first, entries));
      assert.equal(told.length, 3);
      assert.equal(await slotOf(sessionId, alice), expected);
      await reverts(as(alice).recordAfter.staticCall(sessionId, first, entries), 'SlotHasChanged', first, expected);
      const backwards = as(alice).recordAfter.staticCall(sessionId, expected, [[5, id('x'), MIX], [4, id('y'), MIX]]);
      await reverts(backwards, 'RoundIsRecordedAlready', 4n, 6n);
      const { stranger } = get();
      const none = as(stranger).recordAfter.staticCall(sessionId, 0, [[1, id('x'), '0x']]);
      await reverts(none, 'AccountIsNotAMember', sessionId, stranger.address, STRANGER);
    });
  });

  it('takes no ether and knows no other call', async () => {
    const { ledger, alice } = get();
    const to = await ledger.getAddress();
    await assert.rejects(alice.estimateGas({ to, value: 1n }));
    await assert.rejects(alice.estimateGas({ to, data: '0xdeadbeef' }));
    assert.notEqual(to, ZeroAddress);
  });
});
