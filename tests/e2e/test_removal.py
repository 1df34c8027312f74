"""A member that the ledger no longer has is cut off by the nodes that run."""

import signal
import time

import pytest

from ledger import load_keystore
from node.home import read_status
from tests.e2e.test_discovery import members_seen
from tests.nodes import PASSPHRASE, make_home, make_session, running, start_all

pytestmark = pytest.mark.real

BLOCK_S = 0.5  # of the test's chain


def test_a_removed_member_is_cut_off_within_a_few_blocks_and_the_others_go_on(chain, tmp_path):
    homes = [make_home(tmp_path / name) for name in ("alice", "bob", "carol")]
    opened = make_session(homes[0], chain, tmp_path / "session.toml", rounds=100_000)
    nodes = start_all(homes, tmp_path / "session.toml")
    with running(nodes):
        for node in nodes:
            node.wait_for(lambda status: members_seen(status) and len(members_seen(status)) == 2)
        removed = read_status(homes[2])
        nodes[0].wait_for(lambda status: status.get("finished_rounds"))
        creator = load_keystore(homes[0].keystore, PASSPHRASE)
        opened.ledger.remove(creator, opened.session_id, removed["account"])
        began = time.monotonic()

        def is_cut_off(status):
            return all(peer["peer_id"] != removed["peer_id"] or not peer["connected"] for peer in status["peers"])

        for node in nodes[:2]:
            node.wait_for(is_cut_off, 20)
        looks = 1.0 + 0.5 + 0.5  # at the ledger, at the connections, at the status
        assert time.monotonic() - began < 2 * BLOCK_S + looks + 3.0  # for a machine that is shared
        at = nodes[0].status()["round"]

        def goes_on_without(status):
            last = status["finished_rounds"][-3:]
            mixed = {cell["member"] for done in last for cell in done["inputs"] if cell["lag"] != -128}
            return last[-1]["round"] >= at + 3 and removed["member"] not in mixed

        for node in nodes[:2]:  # what it had sent before is mixed until it is too old, longer if it was ahead
            node.wait_for(goes_on_without)
            node.signal(signal.SIGTERM)
        assert [node.end()[0] for node in nodes[:2]] == [0, 0]
        assert "is a member no more; disconnected" in nodes[0].log.read_text()
