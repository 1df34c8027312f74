"""A member that announces one update and records another leaves evidence that convicts it, offline."""

import hashlib
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ledger import Ledger, Membership, Record, binding_message, connect, deploy
from node.cli.app import cli
from node.daemon.witness import Witness
from node.messages import Announcement, announcement_bytes
from node.network.identity import identity_from_seed
from tests.ledger.faulty_rpc import NO_SUCH, FaultyRpc

pytestmark = pytest.mark.real
MALLORY, ALICE = identity_from_seed(b"m" * 32), identity_from_seed(b"a" * 32)


class Stage:
    """A session on a real chain in which Mallory is a member, and a witness of it."""

    def __init__(self, chain, place, url=None):
        self.account, connected = chain.accounts[0], connect(url or chain.url)
        self.ledger = Ledger(connected, deploy(connected, self.account))
        self.session_id = self.ledger.create_session(self.account, hashlib.sha256(b"file").digest())
        message = binding_message(chain.chain_id, self.ledger.address, self.session_id, self.account.address)
        self.ledger.join(self.account, self.session_id, Membership(MALLORY.public_key, MALLORY.sign(message)))
        opened = SimpleNamespace(ledger=self.ledger, session_id=self.session_id)
        self.witness = Witness(opened, place / "evidence")

    def announce(self, digest, round=3):
        signed = MALLORY.sign(announcement_bytes(self.session_id, round, digest, 10, "float32"))
        self.witness.hear(Announcement(self.session_id, round, digest, 10, "float32", MALLORY.peer_id, signed))

    def record(self, digest, round=3):
        self.ledger.submit(self.account, Record(self.session_id, round, digest, None))


@pytest.fixture
def stage(chain, tmp_path):
    return Stage(chain, tmp_path)


def judge(path):
    result = CliRunner().invoke(cli, ["audit", "--json", "--evidence", str(path)])
    return result.exit_code, json.loads(result.stdout)


async def test_another_update_than_the_recorded_one_is_kept_as_evidence_that_convicts_offline(stage):
    stage.announce(b"\x01" * 32)
    stage.record(b"\x02" * 32)
    (path,) = await stage.witness.look()
    assert await stage.witness.look() == []
    assert judge(path) == (
        1,
        {
            "convicts": True,
            "peer_id": MALLORY.peer_id,
            "session": f"{stage.session_id:016x}",
            "round": 3,
            "reason": "it announced one update and recorded another",
        },
    )


async def test_the_record_may_come_before_the_announcement(stage):
    stage.record(b"\x02" * 32)
    assert await stage.witness.look() == []
    stage.announce(b"\x01" * 32)
    assert len(await stage.witness.look()) == 1


async def test_a_record_of_before_the_node_started_counts(stage):
    stage.record(b"\x02" * 32)
    stage.record(b"\x03" * 32, 4)
    stage.announce(b"\x01" * 32)
    assert len(await stage.witness.look()) == 1  # its first


async def test_who_records_what_it_announced_leaves_no_evidence(stage):
    for round in (3, 4):
        stage.announce(b"\x01" * 32, round)
        stage.record(b"\x01" * 32, round)
    assert await stage.witness.look() == []


async def test_nobody_is_convicted_by_evidence_that_was_made_up(stage):
    stage.announce(b"\x01" * 32)
    stage.record(b"\x02" * 32)
    (path,) = await stage.witness.look()
    told = json.loads(path.read_text())

    def reason(announcement=None, record=None):
        changed = {
            "announcement": told["announcement"] | (announcement or {}),
            "record": told["record"] | (record or {}),
        }
        path.write_text(json.dumps(told | changed))
        code, verdict = judge(path)
        assert code == 0
        return verdict["reason"]

    assert "signature of the announcement" in reason({"sha256": "03" * 32})
    assert "signature of the announcement" in reason({"peer_id": ALICE.peer_id})
    assert "did not bind the account" in reason(record={"binding": "00" * 64})
    for wrong in ({"transaction": "02ff"}, {"transaction": ""}, {"binding": 7}):
        path.write_text(json.dumps(told | {"record": told["record"] | wrong}))
        code, verdict = judge(path)
        assert code == 2
        assert "is it the right file?" in verdict["error"]


RAW = "eth_getRawTransactionByHash"


@pytest.fixture
def rpc(chain):
    with FaultyRpc(chain.url) as rpc:
        yield rpc


@pytest.mark.parametrize("answer", [NO_SUCH, b'{"jsonrpc":"2.0","id":1,"result":null}', b'{"id":1,"result":"0x02ff"}'])
async def test_a_node_that_does_not_keep_signed_bytes_gives_the_same_evidence(answer, chain, rpc, tmp_path):
    stage = Stage(chain, tmp_path, rpc.url)
    rpc.forged[RAW] = answer
    stage.announce(b"\x01" * 32)
    stage.record(b"\x02" * 32)
    (path,) = await stage.witness.look()
    assert judge(path)[1]["convicts"]


async def test_one_transaction_that_cannot_be_had_stops_no_other_evidence_and_is_said_once(
    chain, rpc, tmp_path, caplog
):
    stage = Stage(chain, tmp_path, rpc.url)
    rpc.forged[RAW] = NO_SUCH
    hidden = []

    def hide(found):
        hidden.append(found["hash"])
        return None if found["hash"] == hidden[0] else found

    rpc.twists["eth_getTransactionByHash"] = hide
    for round in (3, 4, 5):
        stage.announce(b"\x01" * 32, round)
        stage.record(b"\x02" * 32, round)
    assert len(await stage.witness.look()) == 2
    assert await stage.witness.look() == []
    said = [one for one in caplog.messages if "there is no evidence yet" in one]
    assert len(said) == 1
    assert "does not hand out the transaction" in said[0]
    del rpc.twists["eth_getTransactionByHash"]
    assert len(await stage.witness.look()) == 1


async def test_fields_that_do_not_hash_to_the_transaction_are_no_evidence(chain, rpc, tmp_path, caplog):
    stage = Stage(chain, tmp_path, rpc.url)
    rpc.forged[RAW] = NO_SUCH
    rpc.twists["eth_getTransactionByHash"] = lambda found: found | {"nonce": "0x7777"}
    stage.announce(b"\x01" * 32)
    stage.record(b"\x02" * 32)
    assert await stage.witness.look() == []
    assert "another transaction than" in caplog.text
