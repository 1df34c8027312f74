"""A member of the session sends updates that are none; the others leave them out, count them, and go on."""

import hashlib
import struct
import urllib.request
from collections import Counter

import pytest
import torch
import trio
import zstandard

from ledger import Input, Membership, Mix, Record, binding_message, load_keystore
from node.audit.run import AuditSettings, audit_session
from node.daemon.prepare import session_learner
from node.home import read_status
from node.learning import parameters
from node.messages import ABSENT, Announcement, announcement_bytes
from node.network.identity import load_identity
from node.network.service import NetworkSettings, open_network
from node.storage import digest_of, open_snapshots
from tests.e2e.test_discovery import metric
from tests.nodes import PASSPHRASE, TASK, NodeProcess, make_home, make_session, running

pytestmark = pytest.mark.real


def bad_payloads(spec) -> list[tuple[bytes, str]]:
    """What a payload must not be, all of a length that may be announced; and what it is counted as."""
    good = parameters.encode(spec, torch.zeros(spec.size))
    body = len(good) - 4 * spec.size

    def with_number(number: float) -> bytes:
        return good[:body] + struct.pack("<f", number) + good[body + 4 :]

    return [
        (with_number(float("nan")), "update-not-finite"),
        (with_number(float("-inf")), "update-not-finite"),
        ((1 << 40).to_bytes(8, "little") + good[8:], "update-header"),  # it lies about its length
        (good.replace(b"F32", b"I32", 1), "update-dtype"),
        (good.replace(b"[1,6]", b"[6,1]", 1), "update-shape"),
        (good[:-4], "update-length"),
        (b"[" * len(good), "update-header"),
        (b"\x28\xb5\x2f\xfd" + bytes(len(good) - 4), "update-header"),  # looks like zstd
    ]


def bad_packed_payloads(spec) -> list[tuple[bytes, str]]:
    """The same for a session whose payloads are packed: what unpacks to far more than it may, and says so or lies."""
    good = parameters.encode(spec, torch.zeros(spec.size))
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 20))  # 49 bytes
    size = bomb.index((1 << 20).to_bytes(4, "little"))
    lying = bomb[:size] + len(good).to_bytes(4, "little") + bomb[size + 4 :]
    return [
        (bomb, "update-bomb"),
        (lying, "update-not-packed"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(good), "update-bomb"),
        (zstandard.ZstdCompressor().compress(good[:-4]), "update-length"),
        (zstandard.ZstdCompressor().compress(good)[:-3], "update-not-packed"),
    ]


class Shelf:
    def __init__(self):
        self.payloads, self.announced = {}, []

    def open(self, digest):
        return self.payloads.get(digest)

    def since(self, round):
        return [each for each in self.announced if each.round >= round]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "make_bad"), [("float32", bad_payloads), ("float32+zstd", bad_packed_payloads)], ids=["plain", "packed"]
)
def test_updates_that_are_none_are_left_out_and_counted(chain, tmp_path, codec, make_bad):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "mallory")]
    path = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, path, rounds=9, codec=codec)
    bad = make_bad(session_learner(opened, f"{TASK}:task").spec)
    causes = Counter(cause for _, cause in bad)
    identity, account = load_identity(homes[2].identity), load_keystore(homes[2].keystore, PASSPHRASE)
    message = binding_message(chain.chain_id, opened.ledger.address, opened.session_id, account.address)
    opened.ledger.join(account, opened.session_id, Membership(identity.public_key, identity.sign(message)))
    first = NodeProcess(homes[0], path, "--no-mdns", "--metrics-port", "0")
    with running([first]):
        second = NodeProcess(homes[1], path, "--no-mdns", "--peers", first.address())
        with running([second]):
            page = trio.run(play, identity, opened, [payload for payload, _ in bad], [first, second])
            ends = [node.end() for node in (first, second)]
    assert [code for code, _ in ends] == [0, 0]
    assert metric(page, "fl_node_refused_updates_total") == len(bad)
    assert {cause: metric(page, f'fl_node_refused_total{{cause="{cause}"}}') for cause in causes} == causes
    assert [answer["finished_round"] for _, answer in ends] == [9] * 2
    for home in homes[:2]:
        for entry in read_status(home)["finished_rounds"]:
            assert {cell["member"]: cell["lag"] for cell in entry["inputs"]}[0] == ABSENT  # mallory joined first
        assert read_status(home)["finished_rounds"][-1]["metrics"]["test_loss"] < 0.05
        assert read_status(home)["refused"]["updates"] == len(bad)
        assert {cause: read_status(home)["refused"].get(cause) for cause in causes} == causes
        log = (home.path / "node.log").read_text()
        assert "is left out" in log
        assert all(f"refused ({cause}, 1 so far)" in log for cause in causes)


def beside(node, opened) -> NetworkSettings:
    """How a member that is not ours joins the session's network."""
    return NetworkSettings(
        listen=("/ip4/127.0.0.1/tcp/0",),
        peers=(node.address(),),
        mdns=False,
        session_id=opened.session_id,
        payload_limit=1 << 20,
    )


async def play(identity, opened, bad, nodes) -> str:
    """Announces one bad update per round, in step with the others; the first node's metrics before the last round."""
    shelf = Shelf()
    async with open_network(identity, beside(nodes[0], opened), lambda peer_id: True, shelf, shelf.since) as network:
        for round, payload in enumerate(bad, 1):
            digest = hashlib.sha256(payload).digest()
            codec = opened.session.codec
            said = announcement_bytes(opened.session_id, round, digest, len(payload), codec)
            announcement = Announcement(
                opened.session_id, round, digest, len(payload), codec, identity.peer_id, identity.sign(said)
            )
            shelf.payloads[digest] = payload
            shelf.announced.append(announcement)
            await network.announce(announcement)
            with trio.fail_after(60):
                while any(finished(node) < round for node in nodes):
                    await trio.sleep(0.05)
        url = nodes[0].status()["metrics_url"]
        with await trio.to_thread.run_sync(urllib.request.urlopen, url) as response:
            return response.read().decode()


@pytest.mark.slow
def test_who_shows_one_update_and_records_another_is_convicted_by_the_audit_and_nobody_else(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "mallory")]
    path = tmp_path / "session.toml"
    opened = make_session(homes[0], chain, path, rounds=6, snapshot_every=1)
    spec = session_learner(opened, f"{TASK}:task").spec
    identity, account = load_identity(homes[2].identity), load_keystore(homes[2].keystore, PASSPHRASE)
    message = binding_message(chain.chain_id, opened.ledger.address, opened.session_id, account.address)
    opened.ledger.join(account, opened.session_id, Membership(identity.public_key, identity.sign(message)))
    shown, recorded = (parameters.encode(spec, torch.full((spec.size,), number)) for number in (0.0, 0.5))
    first = NodeProcess(homes[0], path, "--no-mdns")
    with running([first]):
        second = NodeProcess(homes[1], path, "--no-mdns", "--peers", first.address())
        with running([second]):
            trio.run(contradict, homes[2].path, (identity, account), opened, (shown, recorded), (first, second))
            assert [node.end()[0] for node in (first, second)] == [0, 0]
    blind = trio.run(audit_session, AuditSettings(path, chain.url, (str(homes[2].path),)), lambda _line: None)
    report = trio.run(audit_session, AuditSettings(path, chain.url), lambda _line: None)
    assert (0, 1, "equivocation") not in [(fault.member, fault.round, fault.kind) for fault in blind.faults]
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(0, 1, "equivocation")]
    assert report.steps_replayed == report.steps_total - report.steps_without_snapshot > 0


async def contradict(home, keys, opened, updates, nodes) -> None:
    """Announces the first update of round 1, records the second, with a snapshot, until both nodes have noticed."""
    (identity, account), (shown, recorded) = keys, updates
    shelf, digest = Shelf(), hashlib.sha256(shown).digest()
    said = announcement_bytes(opened.session_id, 1, digest, len(shown), "float32")
    announced = Announcement(opened.session_id, 1, digest, len(shown), "float32", identity.peer_id, identity.sign(said))
    shelf.payloads[digest] = shown
    shelf.announced.append(announced)
    async with open_network(identity, beside(nodes[0], opened), lambda peer_id: True, shelf, shelf.since) as network:
        await network.announce(announced)
        async with open_snapshots(home) as snapshots:
            cid = digest_of(await snapshots.add({"update": recorded, "mixed.safetensors": recorded}))
        row = (Input(0, 65_535), Input(1, 0, ABSENT), Input(2, 0, ABSENT))
        other = hashlib.sha256(recorded).digest()
        for record in (
            Record(opened.session_id, 1, other, None),
            Record(opened.session_id, 2, None, Mix(3, row, other, cid)),
        ):
            await trio.to_thread.run_sync(opened.ledger.submit, account, record)
        with trio.fail_after(120):
            while not all(list(node.home.evidence.glob("contradiction-0-1.json")) for node in nodes):
                await trio.sleep(0.2)


def finished(node) -> int:
    rounds = node.status().get("finished_rounds") or [{"round": 0}]
    return rounds[-1]["round"]
