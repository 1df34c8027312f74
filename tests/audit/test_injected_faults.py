"""Every fault that the audit promises to find, injected into a session on a real chain, and located."""

import json
from dataclasses import replace

import pytest
import torch
import trio

from ledger import Devnet, DevnetOptions, History, Input, Record
from ledger.signed import signed_transaction
from node.audit.report import Coverage, Gap
from node.audit.run import AuditSettings, audit_session
from node.config import Privacy
from node.daemon.watching import announcement_json, save_evidence
from node.errors import ConfigError
from node.learning import parameters
from node.learning.parameters import ParameterSpec
from node.messages import ABSENT, Announcement, announcement_bytes
from node.network.identity import identity_from_seed
from node.session.board import Equivocation
from node.session.cohort import draw_cohort
from node.storage import open_snapshots
from tests.audit.forge import SPEC, Forgery, sha256, swapped

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def quick_chain():
    with Devnet(DevnetOptions(block_time=0, free_gas=True)) as devnet:
        yield devnet.connect()


@pytest.fixture
def forge(quick_chain, tmp_path):
    def make(change=lambda _draft: None, **options):
        return Forgery(quick_chain, tmp_path, change=change, **options)

    return make


def at(member, round, act):
    """Lets `act` change one draft only."""

    def change(draft):
        if (draft.member, draft.round) == (member, round):
            act(draft)

    return change


def located(report):
    fault = report.faults[0]
    return fault.member, fault.round, fault.kind


def test_an_honest_session_is_clean_and_replayed_in_full(forge):
    report = forge().audit()
    assert report.clean
    assert report.steps_replayed == report.steps_total == 12
    assert report.records == 16


def test_a_changed_row_is_found(forge):
    def act(draft):
        draft.inputs = swapped(draft.inputs)

    assert located(forge(at(1, 2, act)).audit()) == (1, 2, "mixed parameters")


def test_a_changed_update_hash_is_found(forge):
    def act(draft):
        draft.update_hash = b"\x09" * 32

    report = forge(at(0, 1, act)).audit()
    assert located(report) == (0, 1, "update")
    assert "0909" in report.faults[0].expected


def test_a_changed_mixed_hash_is_found(forge):
    def act(draft):
        draft.mixed_hash = b"\x09" * 32

    assert located(forge(at(2, 3, act)).audit()) == (2, 3, "snapshot")


def test_a_swapped_snapshot_is_found(forge):
    kept = {}

    def change(draft):
        if draft.member == 3:
            draft.snapshot_mixed, kept["mixed"] = kept.get("mixed", draft.mixed), draft.mixed

    assert located(forge(change).audit()) == (3, 2, "snapshot")


def test_one_flipped_bit_in_one_parameter_is_found(forge):
    def act(draft):
        flipped = bytearray(draft.update)
        flipped[-2] ^= 4
        draft.snapshot_update = bytes(flipped)

    assert located(forge(at(2, 2, act)).audit()) == (2, 2, "update")


def test_a_round_that_is_missing_is_reported(forge):
    def act(draft):
        draft.skipped = True

    report = forge(at(1, 2, act), cohort=3).audit()
    assert report.gaps == [Gap(1, 2, 2)]
    assert located(report) == (1, 2, "missing record")  # others mixed it, and it can't be recorded any more
    assert report.fault_count == 1
    assert "member 1 for round 2" in report.faults[0].expected


def test_a_record_that_has_not_arrived_yet_accuses_nobody(forge):
    session = forge(cohort=3)

    async def keep_back():
        del session.records[2][2:]  # member 2 committed to rounds 1 and 2; the rest is in its outbox still

    session.after_rounds = keep_back
    report = session.audit()
    assert (report.faults, report.clean) == ([], True)
    assert [(note.member, note.round) for note in report.notes if note.kind == "pending"] == [(2, 3)]
    assert report.steps_replayed == 4  # round 1: the snapshot of round 2 is named in the record that did not arrive


def test_a_snapshot_of_another_model_is_found(forge):
    def act(draft):
        other = ParameterSpec(("bias", "weight"), ((3,), (3, 2)))
        draft.mixed = draft.snapshot_mixed = parameters.encode(other, torch.ones(9))
        draft.mixed_hash = sha256(draft.mixed)

    report = forge(at(0, 1, act)).audit()
    assert located(report) == (0, 1, "snapshot")
    assert report.fault_count == 1


def spending(*amounts):
    """What member 1 says it has spent in each round; the others spend evenly."""

    def change(draft):
        draft.epsilon = amounts[draft.round - 1] if draft.member == 1 else draft.round / 2

    return change


def shown(report):
    return "\n".join(line.plain for line in report.text().renderables)


def test_epsilons_within_the_budget_are_clean(forge):
    report = forge(spending(0.5, 0.5, 1.25), privacy=Privacy(epsilon=1.5, delta=1e-6)).audit()
    assert report.clean
    spent = {"0": 1.5, "1": 1.25, "2": 1.5, "3": 1.5}
    assert report.json()["privacy"] == {"epsilon": 1.5, "delta": 1e-6, "spent": spent}
    assert [each["epsilon"] for each in report.json()["coverage"]] == list(spent.values())
    assert "epsilon 1.5 at delta 1e-06 for each member; recorded as spent: 1.5 by member 0, 1.25" in shown(report)


def test_the_epsilon_reported_is_of_the_last_audited_round(forge):
    forged = forge(spending(0.5, 0.75, 1.25), privacy=Privacy(epsilon=1.5))
    forged.record()
    assert forged.judge(1, 2).spent == {0: 1.0, 1: 0.75, 2: 1.0, 3: 1.0}


def test_without_a_budget_no_epsilon_is_reported(forge):
    report = forge().audit()
    assert report.json()["privacy"] is None
    assert "privacy" not in shown(report)


@pytest.mark.parametrize(
    ("amounts", "round", "expected"),
    [
        ((0.5, 1.0, 1.500001), 3, "at most 1.5"),
        ((0.5, 0.4, 1.0), 2, "at least 0.5"),
        ((0.5, None, 1.0), 2, "the epsilon spent so far"),
    ],
)
def test_an_epsilon_that_cannot_be_is_found(forge, amounts, round, expected):
    report = forge(spending(*amounts), privacy=Privacy(epsilon=1.5)).audit()
    assert located(report) == (1, round, "privacy")
    assert report.fault_count == 1
    assert expected in report.faults[0].expected


def test_a_member_that_skips_two_billion_rounds_fills_no_memory(forge):
    far, session = 2**31 - 10, forge()
    ledger, session_id = session.record()
    ledger.submit(session.accounts[1], Record(session_id, far, b"\x01" * 32, None))
    report = session.judge()
    assert report.gaps == [Gap(1, 4, far - 1), Gap(1, far, far)]
    assert report.gap_rounds == far - 3


def test_a_binding_signed_by_another_key_is_found(forge):
    report = forge(bind=lambda member, own: identity_from_seed(b"x" * 32) if member == 2 else own).audit()
    assert located(report) == (2, 0, "identity")


def test_two_accounts_with_one_libp2p_key_are_found(forge):
    report = forge(identity=lambda member: identity_from_seed(bytes([min(member, 2)]) * 32)).audit()
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(3, 0, "identity")]
    assert report.faults[0].found == "that of member 2, which signed for both accounts"


def test_who_names_anothers_key_first_takes_nothing_from_it(forge):
    """Member 1 names the key of member 2, which it can't sign with, before that joins."""
    keys = {1: b"\x03", 2: b"\x03"}
    report = forge(
        identity=lambda member: identity_from_seed(keys.get(member, bytes([member + 10])) * 32),
        bind=lambda member, own: identity_from_seed(b"x" * 32) if member == 1 else own,
    ).audit()
    assert [(fault.member, fault.kind) for fault in report.faults] == [(1, "identity")]
    assert "did not make" in report.faults[0].found


def reveals_another(draft):
    """Records another update than the one that it showed the others, and mixes nothing else."""
    other = parameters.encode(SPEC, torch.full((SPEC.size,), 0.5))
    draft.inputs = tuple(
        Input(each.member, 65_535, 0) if each.member == draft.member else Input(each.member, 0, ABSENT)
        for each in draft.inputs
    )
    draft.update_hash = draft.mixed_hash = sha256(other)
    draft.snapshot_update = draft.snapshot_mixed = other


def proof_against(session, member, round):
    """Two announcements of the round that a member signed."""
    mallory = session.identity(member)

    def announced(digest):
        said = announcement_bytes(session.session_id, round, digest, 9, "float32")
        return Announcement(session.session_id, round, digest, 9, "float32", mallory.peer_id, mallory.sign(said))

    return Equivocation(member, announced(b"1" * 32), announced(b"2" * 32))


def test_signed_evidence_in_a_home_convicts_who_showed_another_update_and_nobody_who_mixed_it(forge):
    session = forge(at(1, 2, reveals_another), cohort=3)
    blind = session.audit()
    assert {(fault.member, fault.round, fault.kind) for fault in blind.faults} == {
        (member, 2, "mixed parameters") for member in (0, 2, 3)
    }
    save_evidence(session.place / "evidence", proof_against(session, 1, 2))
    report = session.judge()
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(1, 2, "equivocation")]
    assert [note.member for note in report.notes if note.kind == "equivocal input"] == [0, 2, 3]
    assert report.steps_replayed == report.steps_total - 3
    assert session.judge(first=3).clean


def test_an_announcement_and_the_record_that_contradicts_it_convict_too(forge):
    session = forge(at(1, 2, reveals_another), cohort=3)
    ledger, session_id = session.record()
    with History(ledger, session_id) as history:
        recorded = next(step for step in history.steps() if (step.member, step.round) == (1, 2))
        binding = history.member_entries()[1].binding
    told = {
        "announcement": announcement_json(proof_against(session, 1, 2).first),
        "record": {
            "transaction": signed_transaction(session.chain, recorded.tx_hash).hex(),
            "binding": binding.hex(),
            "chain_id": session.chain.chain_id(),
        },
    }
    (session.place / "evidence").mkdir()
    (session.place / "evidence" / "contradiction-1-2.json").write_text(json.dumps(told))
    report = session.judge()
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(1, 2, "equivocation")]
    assert report.faults[0].found == "it announced one update and recorded another"


def test_evidence_beside_the_session_file_is_taken_without_a_home_being_named(forge):
    session = forge()
    session.record()
    home = session.place / "home-with-kubo"
    home.mkdir()
    save_evidence(home / "evidence", proof_against(session, 1, 2))
    settings = AuditSettings(session.place / "session.toml")
    assert located(trio.run(audit_session, settings, lambda _line: None)) == (1, 2, "equivocation")


def test_evidence_excuses_no_other_wrong_mix_and_faults_are_in_order(forge):
    def act(draft):
        if (draft.member, draft.round) == (1, 2):
            reveals_another(draft)
        if (draft.member, draft.round) == (3, 1):
            draft.inputs = swapped(draft.inputs)
        if (draft.member, draft.round) == (2, 3):
            draft.inputs = swapped(draft.inputs)

    session = forge(act, cohort=3)
    session.record()
    save_evidence(session.place / "evidence", proof_against(session, 1, 2))
    found = [(fault.member, fault.round, fault.kind) for fault in session.judge().faults]
    assert found == [(3, 1, "mixed parameters"), (1, 2, "equivocation"), (2, 3, "mixed parameters")]


def test_what_proves_nothing_or_is_of_a_stranger_accuses_nobody(forge):
    session = forge()
    session.record()
    places = [session.place / "evidence" / name for name in ("stranger", "forged")]
    save_evidence(places[0].parent, proof_against(session, 7, 1))
    proof = proof_against(session, 1, 1)
    forged = replace(proof.second, signature=proof.first.signature)
    save_evidence(places[0].parent, replace(proof, second=forged))
    (places[0].parent / "more.json").write_text("[" * 9)
    assert len(list(places[0].parent.iterdir())) == 3
    assert session.judge().clean


def test_a_cohort_that_was_not_drawn_is_found(forge):
    def act(draft):
        chosen = {entry.member for entry in draft.inputs}
        other = next(member for member in range(6) if member not in chosen)
        victim = next(entry for entry in draft.inputs if entry.member != draft.member)
        changed = [replace(entry, member=other) if entry is victim else entry for entry in draft.inputs]
        draft.inputs = tuple(sorted(changed, key=lambda entry: entry.member))

    assert located(forge(at(4, 2, act), members=6).audit()) == (4, 2, "cohort")


def test_a_range_leaves_faults_outside_alone(forge):
    def act(draft):
        draft.inputs = swapped(draft.inputs)

    report = forge(at(1, 3, act)).audit(first=1, last=2)
    assert report.clean
    assert report.steps_total == 8


@pytest.mark.parametrize(
    "header", ["[1]", '{"a":{"shape":[' + ",".join(["1e308"] * 15) + "]}}", '{"a":{"shape":"12"}}']
)
def test_a_snapshot_whose_header_is_no_models_is_found(forge, header):
    def act(draft):
        draft.mixed = draft.snapshot_mixed = len(header).to_bytes(8, "little") + header.encode()
        draft.mixed_hash = sha256(draft.mixed)

    assert located(forge(at(0, 1, act)).audit()) == (0, 1, "snapshot")


def test_a_snapshot_with_too_long_a_file_is_its_members_fault_and_the_audit_goes_on(forge):
    def act(draft):
        draft.snapshot_update += b"\0" * 5000

    report = forge(at(0, 2, act), members=3, rounds=3).audit()
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(0, 2, "snapshot")]
    assert "a file update of at most" in report.faults[0].expected
    assert (report.steps_total, report.steps_replayed) == (9, 6)  # rounds 1 and 3, whole


def test_a_snapshot_that_is_no_directory_is_its_members_fault(forge):
    session = forge()
    junk = b"\xff\xff is no dag-pb node"

    async def name_junk():
        async with open_snapshots(session.place) as snapshots:
            with snapshots.blocks.writing() as put:
                put(b"\x01\x70\x12\x20" + sha256(junk), junk)
        record = session.records[1][2]  # of round 3, with the mix of round 2
        session.records[1][2] = replace(record, mix=replace(record.mix, snapshot=sha256(junk)))

    session.after_rounds = name_junk
    report = session.audit()
    assert [(fault.member, fault.round, fault.kind) for fault in report.faults] == [(1, 2, "snapshot")]


def test_rounds_that_nobody_recorded_are_a_clear_error(forge):
    session = forge()
    session.record()
    with pytest.raises(ConfigError, match="rounds 90 to the last are not on the ledger: it has 1 to 3"):
        session.judge(first=90)
    with pytest.raises(ConfigError, match="rounds 3 to 2 are no range"):
        session.judge(first=3, last=2)


def claiming(session, member, known):
    """Lets the member say that it knew so many members and drew none of those that there are."""

    async def change():
        for at, record in enumerate(session.records[member]):
            if record.mix is not None:
                drawn = draw_cohort(session.session_id, record.round - 1, member, known, session.cohort)
                inputs = [Input(member, 65_535, 0), *(Input(other, 0, ABSENT) for other in drawn)]
                mix = replace(record.mix, members=known, inputs=tuple(sorted(inputs, key=lambda entry: entry.member)))
                session.records[member][at] = replace(record, mix=mix)

    return change


@pytest.mark.parametrize(("member", "known"), [(0, 998), (0, 5), (3, 1), (3, 3)])
def test_more_members_than_joined_or_fewer_than_before_oneself_are_found(forge, member, known):
    session = forge()
    session.after_rounds = claiming(session, member, known)
    report = session.audit()
    assert located(report) == (member, 1, "cohort")
    assert report.faults[0].expected == f"{member + 1} to 4 members known"


def test_a_member_that_knows_nobody_who_joined_after_it_is_noted(forge):
    session = forge()
    session.after_rounds = claiming(session, 0, 1)
    report = session.audit()
    noted = [(note.member, note.round) for note in report.notes if note.kind == "cohort"]
    assert noted == [(0, 2), (0, 3)]  # in round 1 it may not have seen the others join


def test_an_update_recorded_after_who_mixed_it_is_noted(forge):
    session = forge(members=2)  # records are sent member by member: all of member 1's come after those of member 0
    report = session.audit()
    assert report.clean
    assert {(note.member, note.kind) for note in report.notes} == {(1, "late record")}


def test_an_update_of_a_round_that_cannot_be_is_the_fault_of_who_names_it(forge):
    def act(draft):
        draft.inputs = (draft.inputs[0], *(replace(entry, lag=-9) for entry in draft.inputs[1:]))

    report = forge(at(0, 1, act)).audit()
    assert (0, 1, "input") in [(fault.member, fault.round, fault.kind) for fault in report.faults]


def test_coverage_names_who_leaves_out_snapshots_and_whose_are_not_found(forge):
    session = forge(members=3, snapshot_every=2)

    async def leave_out():
        for at, snapshot in ((1, None), (2, None), (3, b"\x07" * 32)):  # mixes of rounds 1 to 3
            record = session.records[1][at]
            session.records[1][at] = replace(record, mix=replace(record.mix, snapshot=snapshot))

    session.after_rounds = leave_out
    report = session.audit()
    assert report.faults == []
    assert report.coverage[1] == Coverage(1, steps=3, without_cid=2, due_without_cid=1, not_found=1)
    assert report.coverage[0] == Coverage(0, steps=3)  # everybody needs member 1's updates
    assert report.status == 2


@pytest.mark.parametrize(("round", "at"), [(0, 0), (7, None)])
def test_a_record_of_a_round_that_the_session_does_not_have_is_found(forge, round, at):
    forgery = forge()

    async def add():
        records = forgery.records[1]
        records.insert(len(records) if at is None else at, Record(forgery.session_id, round, sha256(b"more"), None))

    forgery.after_rounds = add
    report = forgery.audit()
    assert located(report) == (1, round, "record")
    assert "of the session" in report.faults[0].expected
    assert report.steps_replayed == report.steps_total == 12


def test_a_member_that_stops_long_before_the_others_leaves_a_gap(forge):
    def act(draft):
        draft.skipped = draft.round > 2

    report = forge(rounds=6, change=lambda draft: act(draft) if draft.member == 1 else None).audit()
    assert Gap(1, 3, 6) in report.gaps
    assert not [gap for gap in report.gaps if gap.member != 1]
