import contextlib
import sqlite3

import numpy as np
import pandas as pd
import pytest

from ledger import (
    BrokenChain,
    Devnet,
    DevnetOptions,
    History,
    HistoryError,
    Input,
    Ledger,
    Mix,
    SessionUnknown,
    deploy,
    frames,
)
from ledger.errors import NoContract
from ledger.log_store import LogStore
from ledger.payload import step_of
from tests.ledger.conftest import digest, make_party

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr("ledger.replay._PAUSES", (0.0, 0.0))
    monkeypatch.setattr("ledger.replay._NEWEST", 1 << 32)  # what the node lies about is found by its place among all


@pytest.fixture
def history(party):
    with History(party.ledger, party.session_id) as history:
        yield history


def test_a_record_is_joined_with_the_mix_of_the_members_next_record(party, history):
    party.play(1, 4)
    party.record(1, 5, party.mix(1, 4), closing=True)
    found = history.records()
    assert list(zip(found["round"], found["member"], strict=True)) == [(r, m) for r in range(1, 5) for m in range(3)]
    assert found["complete"].tolist() == [True] * 9 + [False, True, False]
    one = found[(found["round"] == 2) & (found["member"] == 1)].iloc[0]
    assert one["account"] == party.accounts[1].address
    assert one["update_hash"] == digest("update", 1, 2).hex()
    assert one["mixed_hash"] == digest("mixed", 1, 2).hex()
    assert one["snapshot"].startswith("bafybei")
    assert one["known_members"] == 3
    assert found["snapshot"].isna().tolist() == [m["round"] % 2 == 1 or not m["complete"] for _, m in found.iterrows()]
    assert found["fault"].isna().all()


def test_every_frame_has_the_same_columns_and_dtypes_when_it_is_empty(party, history):
    empty = [history.records(), history.trust_rows(), history.delays()]
    party.play(1, 2)
    full = [history.records(), history.trust_rows(), history.delays()]
    for before, after, schema in zip(empty, full, (frames.RECORDS, frames.TRUST_ROWS, frames.DELAYS), strict=True):
        assert len(before) == 0 < len(after)
        assert list(before.columns) == list(after.columns) == list(schema)
        assert before.dtypes.tolist() == after.dtypes.tolist()
    assert dict(history.gas().dtypes.astype(str)) == frames.GAS
    assert history.gas("SessionClosed").dtypes.tolist() == history.gas().dtypes.tolist()


def test_the_trust_matrix_of_a_round_holds_the_recorded_fractions(party, history):
    party.record(0, 1)
    party.record(1, 1)
    row = Mix(3, (Input(0, 60000), Input(1, 0, -128), Input(2, 5535, 2)), digest("m"))
    party.record(0, 2, row)
    matrix = history.trust_matrix(1)
    assert matrix.shape == (3, 3)
    np.testing.assert_allclose(matrix.loc[0], np.array([60000, 0, 5535]) / 65535)
    assert matrix.loc[[1, 2]].isna().all(axis=None)
    rows = history.trust_rows()
    assert rows["weight"].tolist() == [60000, 0, 5535]
    assert rows["lag"].tolist() == [0, -128, 2]
    assert rows["absent"].tolist() == [False, True, False]


def test_the_fractions_of_a_row_of_gradients_are_of_its_own_sum(party, history):
    party.record(0, 1)
    party.record(0, 2, Mix(3, (Input(0, 0), Input(1, 400), Input(2, 311), Input(7, 89)), digest("m")))
    np.testing.assert_allclose(history.trust_matrix(1).loc[0], [0, 0.5, 311 / 800])
    assert history.trust_rows()["weight"].tolist() == [0, 400, 311, 89]


def test_influence_is_the_stationary_distribution_of_the_trust_matrix():
    matrix = pd.DataFrame([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [np.nan] * 3])
    found = frames.influence(matrix.fillna({0: np.nan}))
    assert found.tolist() == pytest.approx([0, 0, 1], abs=1e-6)  # who listens to nobody else ends up being followed
    ring = pd.DataFrame([[0.0, 1.0], [1.0, 0.0]])
    assert frames.influence(ring).tolist() == pytest.approx([0.5, 0.5])


def test_members_come_with_peer_ids_and_the_standing_of_now(party, history):
    party.ledger.set_addresses(party.accounts[1], party.session_id, ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.2/tcp/2"])
    party.ledger.leave(party.accounts[2], party.session_id)
    found = history.members()
    assert dict(found.dtypes.astype(str)) == frames.MEMBERS
    assert found["standing"].tolist() == ["active", "active", "left"]
    assert found["addresses"][1] == "/ip4/10.0.0.1/tcp/1 /ip4/10.0.0.2/tcp/2"
    assert found["bound"].all()
    assert found["peer_id"].str.startswith("12D3KooW").all()


def test_gas_is_what_the_receipts_say(party, history):
    receipts = [party.record(0, round, party.mix(0, round - 1) if round > 1 else None) for round in (1, 2, 3)]
    assert history.records()["gas"].tolist() == [one.gas_used for one in receipts]
    spent = history.gas("Recorded")
    assert spent["gas"].tolist() == [one.gas_used for one in receipts]
    assert spent["cost"].tolist() == pytest.approx([one.gas_used * one.gas_price / 1e18 for one in receipts])
    assert history.gas()["event"].tolist() == ["SessionCreated"] + ["MemberJoined"] * 3 + ["Recorded"] * 3
    assert history.records(gas=False)["gas"].tolist() == [one.gas_used for one in receipts]  # known from before


def test_rounds_and_blocks_select_records(party, history):
    party.play(1, 3)
    everything = history.records()
    middle = history.records(rounds=(2, 2))
    pd.testing.assert_frame_equal(middle, everything[everything["round"] == 2].reset_index(drop=True))
    block = int(everything["block"][4])
    assert history.records(blocks=(block, block))["block"].tolist() == [block]
    assert set(history.trust_rows(rounds=(1, 1))["round"]) == {1}


def test_ranges_that_can_not_be_are_named_with_what_there_is(party, history):
    with pytest.raises(HistoryError, match=r"rounds 1 to 2 are not on the ledger: nothing is recorded yet"):
        history.records(rounds=(1, 2))
    party.play(1, 3)
    with pytest.raises(HistoryError, match=r"rounds 3 to 1 are no range: did you mean 1 to 3\?"):
        history.records(rounds=(3, 1))
    with pytest.raises(HistoryError, match=r"rounds 7 to 9 are not on the ledger: it has 1 to 3"):
        history.records(rounds=(7, 9))
    with pytest.raises(HistoryError, match=r"blocks 0 to 1 are not on the ledger: it has \d+ to \d+"):
        history.records(blocks=(0, 1))
    with pytest.raises(HistoryError, match=r"no event 'Record': did you mean Recorded\?"):
        history.gas("Record")


def test_a_contract_or_session_that_is_not_ours_is_refused(party, devnet):
    with pytest.raises(SessionUnknown):
        History(party.ledger, party.session_id + 1)
    with pytest.raises(NoContract):
        History(Ledger(devnet.connect(), devnet.accounts[1].address, check=False), party.session_id)


def test_steps_are_the_members_own_words_by_round_and_member(party, history):
    party.play(1, 3)
    steps = list(history.steps())
    assert [(one.round, one.member) for one in steps] == [(r, m) for r in (1, 2, 3) for m in (0, 1, 2)]
    assert [one.mix for one in steps] == [party.mix(m, r) for r in (1, 2) for m in range(3)] + [None] * 3
    assert [one.update_hash for one in steps] == [digest("update", m, r) for r in (1, 2, 3) for m in range(3)]
    assert all(one.account == party.accounts[one.member].address for one in steps)
    assert history.update_hash(2, 3) == digest("update", 2, 3)
    assert history.update_hash(2, 4) is None
    assert history.update_hash(7, 1) is None
    assert history.rounds() == (1, 3)


def test_a_closing_record_ends_a_round_and_the_next_may_start_without_a_mix(party, history):
    party.record(0, 1)
    party.record(0, 2, party.mix(0, 1), closing=True)
    party.record(0, 2)
    party.record(0, 3, party.mix(0, 2))
    steps = list(history.steps())
    assert [(one.round, one.mix) for one in steps] == [(1, party.mix(0, 1)), (2, party.mix(0, 2)), (3, None)]
    assert history.records()["round"].tolist() == [1, 2, 3]


def test_what_a_member_recorded_wrongly_is_its_own_fault_and_hides_nobody_elses_record(party, history):
    from ledger.abi import encode_call
    from ledger.transact import transact

    def raw(member, round, update_hash, mix):
        data = encode_call("record", step_of(party.session_id, round), update_hash, mix)
        transact(party.ledger.chain, party.accounts[member], party.ledger.address, data)

    party.record(0, 1)
    raw(0, 2, digest("x"), b"\x07garbage")  # no mix
    raw(1, 1, digest("y"), bytes(35) + bytes(5))  # a mix of no round, whose weights add up to nothing
    party.record(2, 1)
    records, steps = history.records(), list(history.steps())
    assert records["fault"].isna().tolist() == [False, False, True, True]
    assert [one.fault is None for one in steps] == [False, False, True, True]
    assert "unknown flags 0x07" in records["fault"][0] == steps[0].fault
    assert "mix of no round" in records["fault"][1] == steps[1].fault


def test_delays_say_who_was_late(party, history, devnet):
    chain = party.ledger.chain
    for round, member, pause in ((1, 0, 1), (1, 1, 5), (2, 1, 10), (2, 0, 30)):
        chain.rpc.call("evm_increaseTime", pause)
        party.record(member, round, party.mix(member, round - 1) if round > 1 else None)
    found = history.delays().set_index(["round", "member"])
    assert found["behind_s"][1, 0] == 0 == found["behind_s"][2, 1]
    assert 5 <= found["behind_s"][1, 1] <= 7
    assert 30 <= found["behind_s"][2, 0] <= 32
    assert found["interval_s"].isna().tolist() == [True, True, False, False]
    assert 10 <= found["interval_s"][2, 1] <= 12


def test_progress_is_told_in_blocks(party):
    told = []
    with History(party.ledger, party.session_id, progress=lambda done, total: told.append((done, total))) as history:
        history.records()
        assert told[-1][0] == told[-1][1] == history.follow() - history.session.created_block + 1


def test_the_newest_blocks_can_be_left_out(party):
    party.play(1, 2)
    with History(party.ledger, party.session_id, behind=3) as history:
        assert len(history.records()) == 3


# ---- the cache ----


def counted(monkeypatch):
    """How many logs are stored from now on."""
    stored = []
    insert = LogStore._insert

    def count(self, events):
        stored.extend(events)
        insert(self, events)

    monkeypatch.setattr(LogStore, "_insert", count)
    return stored


def test_a_cache_is_read_on_from_and_not_read_again(party, tmp_path, monkeypatch):
    party.play(1, 2)
    with History(party.ledger, party.session_id, cache=tmp_path / "cache") as history:
        before = history.records()
    party.play(3, 3)
    stored = counted(monkeypatch)
    with History(party.ledger, party.session_id, cache=tmp_path / "cache") as history:
        assert len(history.records()) == len(before) + 3
        assert history.verify() == 9
    assert len(stored) == 3


def test_a_cache_of_another_session_is_refused(devnet, deployed, party, tmp_path):
    History(party.ledger, party.session_id, cache=tmp_path / "cache").close()
    other = make_party(devnet, deployed, 1, "another session")
    with pytest.raises(HistoryError, match=r"holds the history of session .* name another file"):
        History(other.ledger, other.session_id, cache=tmp_path / "cache")
    (tmp_path / "junk").write_bytes(b"no database at all" * 100)
    with pytest.raises(HistoryError, match="can't be used"):
        History(party.ledger, party.session_id, cache=tmp_path / "junk")


def test_a_cache_that_another_program_holds_is_one_clear_error(party, tmp_path):
    with (
        History(party.ledger, party.session_id, cache=tmp_path / "cache") as history,
        contextlib.closing(sqlite3.connect(tmp_path / "cache", isolation_level=None)) as other,
    ):
        history._store.db.execute("pragma busy_timeout = 10")
        other.execute("begin immediate")
        with pytest.raises(HistoryError, match=r"locked.*is another program using it\?"):
            history.records()
        other.execute("rollback")
        assert len(history.records()) == 0


def test_what_a_reorganisation_undid_is_forgotten_and_what_it_did_is_read(party, tmp_path, monkeypatch):
    chain = party.ledger.chain
    party.play(1, 2)
    with History(party.ledger, party.session_id, cache=tmp_path / "cache") as history:
        history.records()
        state = chain.rpc.call("evm_snapshot")
        party.record(0, 3)
        party.record(1, 3, party.mix(1, 2))
        gone = history.records()
        chain.rpc.call("evm_revert", state)
        party.record(2, 3, party.mix(2, 2))
        stored = counted(monkeypatch)
        now = history.records()
        assert set(gone[gone["round"] == 3]["member"]) == {0, 1}
        assert set(now[now["round"] == 3]["member"]) == {2}
        assert history.verify() == 7
        assert len(stored) <= 3  # not from the beginning
        assert len(history.gas("Recorded")) == 7


def test_a_chain_that_lost_everything_empties_the_cache(tmp_path):
    with Devnet(DevnetOptions(block_time=0)) as devnet:
        ledger = Ledger(devnet.connect(), deploy(devnet.connect(), devnet.accounts[0]))
        state = devnet.connect().rpc.call("evm_snapshot")
        party = make_party(devnet, ledger, 1)
        party.play(1, 3)
        with History(ledger, party.session_id, cache=tmp_path / "cache") as history:
            assert len(history.records()) == 3
            devnet.connect().rpc.call("evm_revert", state)
            ledger.create_session(devnet.accounts[0], digest("other"))
            assert len(history.records()) == 0


# ---- a node that lies ----


class LyingRpc:
    """Answers like the node behind it, but for logs, which `twist` changes."""

    def __init__(self, rpc, twist):
        self._rpc, self._twist = rpc, twist
        self.url, self.timeout = rpc.url, rpc.timeout

    def call(self, method, *params):
        found = self._rpc.call(method, *params)
        return self._twist(found) if method == "eth_getLogs" else found

    def batch(self, method, params):
        return self._rpc.batch(method, params)


def lying(devnet, party, twist):
    ledger = Ledger(devnet.connect(), party.ledger.address)
    ledger.chain.rpc = LyingRpc(ledger.chain.rpc, twist)
    return History(ledger, party.session_id)


def records_among(logs):
    return [i for i, log in enumerate(logs) if len(log["topics"]) == 2 and len(log["data"]) > 200]


def changed(log, at, byte):
    """The log with a byte of its record's entry replaced."""
    data = bytearray.fromhex(log["data"][2:])
    data[64 + at] ^= byte
    return {**log, "data": "0x" + data.hex()}


def drop(which):
    def twist(logs):
        at = records_among(logs)[which]
        return logs[:at] + logs[at + 1 :]

    return twist


def alter(which, at=30):
    def twist(logs):
        index = records_among(logs)[which]
        return [changed(log, at, 1) if i == index else log for i, log in enumerate(logs)]

    return twist


def test_a_chain_that_is_whole_is_verified(party, history):
    party.play(1, 3)
    assert history.verify() == 9


@pytest.mark.parametrize(
    ("twist", "member", "round"),
    [
        (alter(4), 1, 2),  # a byte of the update hash of (member 1, round 2)
        (alter(5, 100), 2, 2),  # a byte of its trust row
        (drop(4), 1, 2),  # the record of (1, 2)
        (drop(8), 2, 3),  # the last record
    ],
)
def test_an_altered_or_missing_record_is_found_and_located(devnet, party, twist, member, round):
    party.play(1, 3)
    with (
        lying(devnet, party, twist) as history,
        pytest.raises(BrokenChain, match=f"member {member} .*ask another") as e,
    ):
        history.verify()
    assert (e.value.member, e.value.round, e.value.account) == (member, round, party.accounts[member].address)
    with lying(devnet, party, twist) as history, pytest.raises(BrokenChain):
        next(history.steps())


def test_a_closing_record_that_is_missing_at_the_end_is_located(devnet, party):
    party.play(1, 2)
    party.record(1, 3, party.mix(1, 2), closing=True)
    head = devnet.connect().block_number()
    with lying(devnet, party, lambda logs: [log for log in logs if int(log["blockNumber"], 16) < head]) as history:
        with pytest.raises(BrokenChain, match="the closing record of round 3 is missing at the end") as caught:
            history.verify()
        assert (caught.value.member, caught.value.round) == (1, 3)


def test_a_node_that_tells_of_nothing_is_found(devnet, party):
    party.play(1, 2)
    with lying(devnet, party, lambda _: []) as history, pytest.raises(HistoryError, match="tell of 0 members, the con"):
        history.verify()


def test_a_node_that_has_the_newest_logs_a_little_later_convicts_nobody(devnet, party):
    party.play(1, 3)
    head, asked = devnet.connect().block_number(), []

    def lag(logs):
        asked.append(1)
        return logs if len(asked) > 2 else [log for log in logs if int(log["blockNumber"], 16) < head]

    with lying(devnet, party, lag) as history:
        assert history.verify() == 9
        assert len(history.records()) == 9


@pytest.mark.parametrize("kind", ["Recorded", "MemberJoined"])
def test_a_cache_that_lacks_an_event_is_read_anew(kind, party, tmp_path, monkeypatch):
    monkeypatch.setattr("ledger.replay._NEWEST", 64)
    party.play(1, 3)
    with History(party.ledger, party.session_id, tmp_path / "cache") as history:
        history.follow()
    party.ledger.chain.rpc.call("anvil_mine", "0x64")
    with contextlib.closing(sqlite3.connect(tmp_path / "cache")) as db, db:
        db.execute(
            "delete from events where (block, position) in (select block, position from events where kind = ? limit 1)",
            (kind,),
        )
    with History(party.ledger, party.session_id, tmp_path / "cache") as history:
        assert history.verify() == len(history.records()) == 9


def test_a_price_that_no_column_holds_is_an_error(devnet, party):
    party.play(1, 2)

    class Pricey(LyingRpc):
        def batch(self, method, params):
            found = self._rpc.batch(method, params)
            return [one | {"effectiveGasPrice": "0x" + "ff" * 10} for one in found] if "Receipt" in method else found

    ledger = Ledger(devnet.connect(), party.ledger.address)
    ledger.chain.rpc = Pricey(ledger.chain.rpc, lambda logs: logs)
    with (
        History(ledger, party.session_id) as history,
        pytest.raises(HistoryError, match=r"a receipt of .* ask another"),
    ):
        history.gas()


def test_a_cache_with_a_damaged_page_is_an_error_that_names_it_or_is_read_anew(party, tmp_path):
    party.play(1, 6)
    with History(party.ledger, party.session_id, tmp_path / "cache") as history:
        history.gas()
    whole, seen = (tmp_path / "cache").read_bytes(), []
    for at in range(4096, len(whole), 4096):
        damaged = tmp_path / f"damaged-{at}"
        damaged.write_bytes(whole[:at] + b"\xff" * 4096 + whole[at + 4096 :])
        try:
            with History(party.ledger, party.session_id, damaged) as history:
                assert history.verify() == len(history.records()) == 18
                history.gas()
        except HistoryError as error:
            seen.append(damaged.name in str(error))
    assert len(seen) > 2
    assert all(seen)


def test_a_fault_is_located_where_the_node_keeps_no_old_state(devnet, party):
    party.play(1, 3)
    devnet.mine(200)
    with lying(devnet, party, alter(4)) as history, pytest.raises(BrokenChain) as caught:
        history.verify()
    assert (caught.value.member, caught.value.round) == (1, 2)
    with (
        lying(devnet, party, drop(8)) as history,
        pytest.raises(BrokenChain, match=r"round.* 3 to 3 are missing") as caught,
    ):
        history.verify()
    assert (caught.value.member, caught.value.round) == (2, 3)


def test_reordered_records_are_found(devnet, party):
    party.play(1, 3)

    def swap(logs):
        first, second = [records_among(logs)[i] for i in (1, 4)]  # member 1, rounds 1 and 2
        data = {first: logs[second]["data"], second: logs[first]["data"]}
        return [{**log, "data": data.get(i, log["data"])} for i, log in enumerate(logs)]

    with lying(devnet, party, swap) as history, pytest.raises(BrokenChain, match="out of order") as caught:
        history.verify()
    assert (caught.value.member, caught.value.round) == (1, 1)


def test_a_record_of_a_stranger_is_found(devnet, party):
    party.play(1, 2)
    stranger = alter(3, 5)  # a byte of the account
    with lying(devnet, party, stranger) as history, pytest.raises(BrokenChain, match="never joined") as caught:
        history.verify()
    assert (caught.value.member, caught.value.round) == (None, 2)
    with lying(devnet, party, stranger) as history, pytest.raises(BrokenChain, match="never joined"):
        history.records()


def test_an_altered_binding_breaks_the_chain_at_its_root(devnet, party):
    def twist(logs):
        return [changed(log, 110, 1) if len(log["data"]) > 500 and i == 1 else log for i, log in enumerate(logs)]

    with lying(devnet, party, twist) as history:
        assert history.members()["bound"].tolist() == [False, True, True]
        with pytest.raises(BrokenChain, match="its joining in block") as caught:
            history.verify()
    assert (caught.value.member, caught.value.round) == (0, None)


@pytest.mark.parametrize(
    "twist",
    [
        lambda logs: [{**logs[0], "data": "0xzz"}],
        lambda logs: [{**logs[0], "topics": []}],
        lambda logs: [{**logs[0], "blockNumber": "0x" + "f" * 40}],
        lambda logs: [{**logs[0], "blockTimestamp": "0x" + "f" * 15}],
        lambda logs: [{}],
        lambda logs: [1],
        lambda logs: [logs[0], logs[0]],
        lambda logs: [{**logs[-1], "data": "0x"}],
        lambda logs: logs[:1] + logs[2:],  # the first member's joining
    ],
)
def test_a_node_that_serves_nonsense_is_named(devnet, party, twist):
    party.play(1, 1)
    with lying(devnet, party, twist) as history, pytest.raises(HistoryError, match=r"ask another|serves one log twice"):
        history.members()


def test_mixes_are_read_on_from_a_block_for_who_only_wants_their_snapshots(party, history):
    party.play(1, 4)
    head, found = history.mixes()
    expected = history.records(gas=False)
    known = expected[expected["complete"]]
    assert sorted((one.member, one.round) for one in found) == sorted(zip(known["member"], known["round"], strict=True))
    assert {one.round for one in found if one.snapshot} == {2}
    assert all(one.snapshot is None or len(one.snapshot) == 32 for one in found)
    party.record(1, 5, party.mix(1, 4), closing=True)
    head, later = history.mixes(head)
    assert [(one.member, one.round, one.snapshot is None) for one in later] == [(1, 4, False)]
    assert history.mixes(head)[1] == []
