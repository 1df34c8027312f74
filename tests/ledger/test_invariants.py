"""The contract against a model of it, over random sequences of everything that anybody can do to a session."""

import hashlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import Devnet, DevnetOptions, History, Ledger, deploy
from ledger.abi import decode_error, encode_call
from ledger.errors import RpcRefused
from ledger.payload import HOLD, first_slot, next_slot, step_of
from ledger.values import Membership
from tests.ledger.conftest import digest

pytestmark = pytest.mark.real

PEOPLE = 4
people = st.integers(0, PEOPLE - 1)
GAS = hex(2_000_000)


class Machine(RuleBasedStateMachine):
    """Every call succeeds or fails as the model says, and leaves the storage that the model says."""

    ledger: Ledger
    accounts: list[str]  # the first is the creator

    @initialize(admission=st.booleans())
    def create(self, admission):
        self.rpc = self.ledger.chain.rpc
        self.snapshot = self.rpc.call("evm_snapshot")
        self.state, self.admission, self.held, self.records = "Open", admission, 0, 0
        self.members, self.standing, self.slots = [], dict.fromkeys(self.accounts, "Stranger"), {}
        config = hashlib.sha256(b"invariants").digest()
        creation = encode_call("createSession", config, admission, "")
        self._send(self.accounts[0], creation)
        self.session_id = int.from_bytes(self._view("sessionIdOf", self.accounts[0], config)[-8:], "big")

    def teardown(self):
        if hasattr(self, "snapshot"):
            with History(self.ledger, self.session_id) as history:
                assert history.verify() == self.records
            self.rpc.call("evm_revert", self.snapshot)

    # ---- what members do ----

    @rule(who=people)
    def join(self, who):
        account = self.accounts[who]
        membership = Membership(digest("key", who), digest("binding", who) * 2)
        error = self._closed() or self._may_not_join(account)
        if self._do(error, account, "join", membership.peer_key, membership.binding, ""):
            index = len(self.members)
            self.members.append(account)
            self.standing[account] = "Active"
            self.slots[account] = first_slot(account, self.session_id, index, membership)

    @rule(
        who=people,
        ahead=st.integers(-2, 3),
        update=st.sampled_from([bytes(32), digest("update")]),
        mix=st.sampled_from([b"", b"mix"]),
    )
    def record(self, who, ahead, update, mix):
        account = self.accounts[who]
        round = max(0, (self.slots.get(account, 0) & (HOLD - 1)) + ahead)
        error = self._may_not_record(account, round) or (not any(update) and not mix and "RecordIsEmpty")
        if self._do(error, account, "record", round, update, mix):
            self._append(account, round, update, mix)

    @rule(who=people, count=st.integers(1, 3), stale=st.booleans())
    def record_after(self, who, count, stale):
        account = self.accounts[who]
        slot = self.slots.get(account, 0)
        round = slot & (HOLD - 1)
        error = (stale and "SlotHasChanged") or self._may_not_record(account, round)
        entries = [(round + i, digest("update", i), b"mix") for i in range(count)]
        if self._do(error, account, "recordAfter", slot ^ stale, entries):
            for entry in entries:
                self._append(account, *entry)

    @rule(who=people)
    def quit(self, who):
        self._leave(self.accounts[who], "Left", self.accounts[who], "quit")

    @rule(who=people)
    def rejoin(self, who):
        account = self.accounts[who]
        error = self._closed() or (self.standing[account] != "Left" and "AccountHasNotLeft")
        if self._do(error, account, "rejoin", ""):
            self.standing[account] = "Active"
            self.slots[account] &= ~HOLD

    # ---- what the creator does ----

    @rule(who=people)
    def remove(self, who):
        self._leave(self.accounts[who], "Removed", self.accounts[0], "remove", self.accounts[who])

    @rule(who=people)
    def admit(self, who):
        account = self.accounts[who]
        becomes = {"Stranger": "Admitted", "Removed": "Left"}.get(self.standing[account])
        if self._do(not becomes and "AccountIsAMemberAlready", self.accounts[0], "admit", [account]):
            self.standing[account] = becomes

    @rule(most=st.integers(0, 3))
    def pause(self, most):
        full = self.state == "Paused" and self.held == len(self.members)
        error = (self.state == "Closed" and "SessionIsClosed") or (full and "EveryMemberIsHeldAlready")
        if self._do(error, self.accounts[0], "pause", most):
            self.state = "Paused"
            self._hold(most)

    @rule(most=st.integers(0, 3))
    def resume(self, most):
        if self._do(self.state != "Paused" and "SessionIsNotPaused", self.accounts[0], "resume", most):
            for account in self.members[max(0, self.held - most) : self.held]:
                if self.standing[account] == "Active":
                    self.slots[account] &= ~HOLD
            self.held = max(0, self.held - most)
            self.state = "Paused" if self.held else "Open"

    @rule(most=st.integers(0, 3), really=st.integers(0, 9).map(lambda one: one == 0))
    def close(self, most, really):
        if not really:
            return  # or most sequences would be of closed sessions
        full = self.state == "Closed" and self.held == len(self.members)
        if self._do(full and "EveryMemberIsHeldAlready", self.accounts[0], "close", most):
            self.state = "Closed"
            self._hold(most)

    @rule(who=st.integers(1, PEOPLE - 1), name=st.sampled_from(["pause", "resume", "close"]))
    def meddle(self, who, name):
        assert not self._do("OnlyTheCreatorMayDoThat", self.accounts[who], name, 5)

    # ---- what must hold ----

    @invariant()
    def storage_is_as_the_model_says(self):
        if not hasattr(self, "session_id"):
            return
        session = self.ledger.session(self.session_id)
        told = (session.state, session.member_count, session.held_count)
        assert told == (self.state.lower(), len(self.members), self.held)
        for account in self.accounts:
            assert self.ledger.head(self.session_id, account).slot == self.slots.get(account, 0)
            assert self.ledger.standing(self.session_id, account) == self.standing[account].lower()

    # ---- the model ----

    def _closed(self):
        return self.state != "Open" and "SessionIsNotOpen"

    def _may_not_join(self, account):
        if self.standing[account] not in {"Stranger", "Admitted"}:
            return "AccountIsAMemberAlready"
        return self.admission and self.standing[account] == "Stranger" and "AccountIsNotAdmitted"

    def _may_not_record(self, account, round):
        slot = self.slots.get(account, 0)
        if slot and round >= slot & 0xFFFFFFFF:
            return None
        if self.standing[account] != "Active":
            return "AccountIsNotAMember"
        return "SessionIsNotOpen" if slot & HOLD else "RoundIsRecordedAlready"

    def _append(self, account, round, update, mix):
        entry = bytes.fromhex(account[2:]) + round.to_bytes(4, "big") + update + mix
        self.slots[account] = next_slot(self.slots[account], entry)
        self.records += 1

    def _leave(self, account, becomes, sender, *call):
        error = self.standing[account] != "Active" and "AccountIsNotAMember"
        if self._do(error, sender, *call):
            self.standing[account] = becomes
            self.slots[account] |= HOLD

    def _hold(self, most):
        for account in self.members[self.held : self.held + most]:
            self.slots[account] |= HOLD
        self.held = min(len(self.members), self.held + most)

    # ---- the chain ----

    def _do(self, error, sender, name, *arguments):
        """Whether the call went well; it must fail with just this error, if there is one."""
        place = (self.session_id, *arguments)
        if name == "record":
            place = (step_of(self.session_id, arguments[0]), *arguments[1:])
        data = encode_call(name, *place)
        if not error:
            self._send(sender, data)
            return True
        with pytest.raises(RpcRefused) as caught:
            self.rpc.call("eth_call", {"from": sender, "to": self.ledger.address, "data": "0x" + data.hex()}, "latest")
        assert decode_error(caught.value.data)[0] == error
        return False

    def _send(self, sender, data):
        call = {"from": sender, "to": self.ledger.address, "data": "0x" + data.hex(), "gas": GAS}
        tx_hash = self.rpc.call("eth_sendTransaction", call)
        self.rpc.call("evm_mine")
        assert self.ledger.chain.receipt(tx_hash)[1]

    def _view(self, name, *arguments):
        return self.ledger.chain.read(self.ledger.address, encode_call(name, *arguments))


def test_whatever_is_done_to_a_session_storage_and_events_stay_true_to_the_model():
    with Devnet(DevnetOptions(block_time=0, extra=("--no-mining",))) as devnet:
        chain = devnet.connect()
        chain.rpc.call("evm_setAutomine", True)
        Machine.ledger = Ledger(chain, deploy(chain, devnet.accounts[0]))
        Machine.accounts = [one.address for one in devnet.accounts[:PEOPLE]]
        chain.rpc.call("evm_setAutomine", False)
        case = Machine.TestCase
        case.settings = settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        )
        case().runTest()
