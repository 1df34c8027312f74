"""Training under a privacy budget: paid for on disk first, once, and never beyond the budget."""

import json
import logging
import stat
from dataclasses import replace
from functools import cache

import pytest
import torch
from opacus.accountants import create_accountant

from node.config import Privacy
from node.daemon.averaging import WorkingLearner
from node.daemon.learner import Seat, TorchLearner
from node.daemon.private import ACCOUNT, open_private, private_way
from node.daemon.spending import Spending
from node.errors import ConfigError, HomeError, TaskError
from node.home import Home
from node.learning.accounting import Budget, Release, spent
from node.learning.codecs import codec
from node.learning.task import Share, prepare
from node.learning.trust import TrustSettings
from tests.learning.example_task import task

pytestmark = pytest.mark.real  # accountants take their time
LEARNER = prepare(task, seed=3)
DATA = task.data(Share(seed=3))
STEPS = 20  # of a round: 400 examples in batches of 20
RELEASE = Release(1.0, 0.05, STEPS)


def opacus(accountant, rounds, noise=1.0):
    oracle = create_accountant(mechanism=accountant)
    oracle.history = [(noise, 0.05, STEPS * rounds)]
    return oracle.get_epsilon(delta=1e-5)


@cache
def pays_for(rounds, accountant="rdp"):
    """A session whose budget is spent after so many rounds."""
    return Privacy(epsilon=1.0001 * opacus(accountant, rounds), noise_multiplier=1.0, accountant=accountant)


def opened(home, privacy, recorded=0, data=DATA, form="float32"):
    """A member's learner, as at a start of its node."""
    learner = TorchLearner(LEARNER, data, codec(form), Seat(7, 3, 0), TrustSettings(), LEARNER.initial())
    way = private_way(privacy, LEARNER, data.train, 10)
    learner.private = open_private(home, way, data.train, "7/0", recorded)
    return learner


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def calm(monkeypatch):
    """Training outside a trio thread."""
    monkeypatch.setattr("trio.from_thread.check_cancelled", lambda: None)


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_epsilon_is_the_accountants_whatever_the_restarts(home, calm, accountant):
    flat = LEARNER.initial()
    for round in range(1, 6):
        for _ in range(2):  # each round is trained, lost in a crash, and trained again
            learner = opened(home, pays_for(6, accountant))
            learner.flat = flat
            trained = learner._train(round)
            assert learner.epsilon() == pytest.approx(opacus(accountant, round), rel=0.01)
            assert trained.metrics["epsilon"] == learner.epsilon()
        flat = learner.decode(trained.payload)


def test_a_round_that_is_trained_again_gives_the_same_bytes(home, calm):
    first, second = (opened(home, pays_for(3))._train(1).payload for _ in range(2))
    assert first == second


@pytest.mark.parametrize("what", ["round", "start", "data", "secret"])
def test_other_work_has_other_noise_and_is_paid_for(home, calm, what):
    opened(home, pays_for(3))._train(1)
    data = replace(DATA, train=replace(DATA.train, targets=DATA.train.targets + 1)) if what == "data" else DATA
    kept = home.noise_key.read_bytes()
    if what == "secret":
        home.noise_key.write_bytes(bytes(32))
    learner = opened(home, pays_for(3), data=data)
    assert home.noise_key.read_bytes() == (bytes(32) if what == "secret" else kept)
    learner.flat = LEARNER.initial() + (what == "start")
    learner._train(2 if what == "round" else 1)
    assert learner.epsilon() == pytest.approx(opacus("rdp", 2))


@pytest.mark.parametrize("same", [True, False])
async def test_what_a_committed_update_left_out_is_kept_only_if_it_is_that_updates(home, same):
    first = opened(home, pays_for(3), form="topk:0.1")
    committed = await first.train(1)
    if not same:
        home.noise_key.write_bytes(bytes(32))
    again = opened(home, pays_for(3), form="topk:0.1")
    assert await again.repeat(1, committed) == committed
    assert again.epsilon() == pytest.approx(opacus("rdp", 1 if same else 2))
    assert torch.equal(again.residual, first.residual) if same else again.residual is None


def test_the_noise_is_of_the_home_and_not_of_the_session(tmp_path, calm):
    payloads = []
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
        payloads.append(opened(Home(tmp_path / name), pays_for(3))._train(1).payload)
    assert payloads[0] != payloads[1]


def test_the_account_is_on_disk_before_the_first_step(home, monkeypatch):
    def die():
        raise KeyboardInterrupt

    monkeypatch.setattr("trio.from_thread.check_cancelled", die)
    with pytest.raises(KeyboardInterrupt):
        opened(home, pays_for(3))._train(1)
    assert json.loads((home.state / ACCOUNT).read_bytes())["history"] == [[1.0, 0.05, STEPS]]
    assert opened(home, pays_for(3)).epsilon() == pytest.approx(opacus("rdp", 1))


def test_beyond_the_budget_a_node_offers_what_it_holds_and_says_so(home, calm, caplog):
    learner = opened(home, pays_for(2))
    with caplog.at_level(logging.WARNING):
        for round in range(1, 5):
            if round == 4:
                learner = opened(home, pays_for(2))  # nor after a restart
            learner.flat = torch.full_like(LEARNER.initial(), float(round))
            trained = learner._train(round)
            assert torch.equal(learner.decode(trained.payload), learner.flat) == (round > 2)
            assert ("train_loss" in trained.metrics) == (round <= 2)
    assert learner.epsilon() == pytest.approx(opacus("rdp", 2))
    assert learner.epsilon() <= pays_for(2).epsilon
    assert learner.private.as_json()["refused_rounds"] == 2
    assert "round 3 is not trained: after it epsilon would be" in caplog.text


def test_a_derived_multiplier_lasts_for_all_rounds_and_hardly_longer(home):
    privacy = Privacy(epsilon=2.0)
    way = private_way(privacy, LEARNER, DATA.train, 10)
    spending = Spending.open(home.path / ACCOUNT, way.budget)
    paid = [spending.pay(round, way.release, str(round)) for round in range(1, 12)]
    assert paid == [True] * 10 + [False]
    assert 1.98 < spending.epsilon <= 2.0


def test_a_lost_disk_counts_the_rounds_that_the_ledger_has(home, caplog):
    assert opened(home, pays_for(4), recorded=3).epsilon() == pytest.approx(opacus("rdp", 3))
    assert opened(home, pays_for(4), recorded=3).epsilon() == pytest.approx(opacus("rdp", 3))
    assert opened(home, pays_for(4), recorded=9).epsilon() == pytest.approx(
        opacus("rdp", 4)
    )  # more it cannot have paid
    assert "lacks 3 rounds that may have been trained" in caplog.text


def test_rounds_that_the_ledger_never_got_count_too_after_a_lost_disk(home, calm):
    opened(home, pays_for(6), recorded=1)
    learner = opened(home, pays_for(6))  # killed before it trained, and started again
    learner._train(4)  # the others are there: rounds 2 and 3 may have been revealed
    assert learner.epsilon() == pytest.approx(opacus("rdp", 4))
    learner._train(6)  # a round that this node knows it skipped
    assert learner.epsilon() == pytest.approx(opacus("rdp", 5))


def test_the_account_of_a_lost_key_goes_on_in_the_home_of_the_new_one(tmp_path, calm):
    """As docs/operations.md says: the examples are the same, whoever trains on them now."""
    old, new = Home(tmp_path / "b"), Home(tmp_path / "e")
    for home in (old, new):
        home.path.mkdir()
    for round in (1, 2):
        opened(old, pays_for(4))._train(round)
    new.state.mkdir()
    (new.state / ACCOUNT).write_bytes((old.state / ACCOUNT).read_bytes())
    learner = opened(new, pays_for(4))
    learner._train(1)
    assert learner.epsilon() == pytest.approx(opacus("rdp", 3))


def test_a_damaged_account_or_secret_is_no_fresh_start(home):
    opened(home, pays_for(2))
    assert stat.S_IMODE(home.noise_key.stat().st_mode) == 0o600
    home.noise_key.write_bytes(b"short")
    with pytest.raises(HomeError, match="5 bytes, not 32"):
        opened(home, pays_for(2))
    home.state.mkdir(exist_ok=True)
    for content in (b"", b"[]", b"{}", b'{"history": [[-1, 1, 1]], "round": 1, "refused": 0, "last": "", "lost": []}'):
        (home.state / ACCOUNT).write_bytes(content)
        with pytest.raises(HomeError, match=r"privacy\.json is damaged"):
            opened(home, pays_for(2))


def test_a_flipped_bit_in_the_account_is_no_smaller_epsilon(home, calm):
    learner = opened(home, pays_for(4))
    for round in (1, 2):
        learner._train(round)
    account = home.state / ACCOUNT
    whole = account.read_bytes()
    assert f"{2 * STEPS}".encode() in whole
    account.write_bytes(whole.replace(f"[[1.0, 0.05, {2 * STEPS}]]".encode(), f"[[1.0, 0.05, {STEPS}]]".encode()))
    with pytest.raises(HomeError, match=r"privacy\.json is damaged \(its SHA-256 is another one\)"):
        opened(home, pays_for(4))
    account.write_bytes(whole.replace(b'"sha256"', b'"sha257"'))
    with pytest.raises(HomeError, match=r"privacy\.json is damaged"):
        opened(home, pays_for(4))
    account.write_bytes(whole)
    assert opened(home, pays_for(4)).epsilon() == pytest.approx(opacus("rdp", 2))


def test_an_account_of_an_earlier_version_goes_on(home, calm):
    opened(home, pays_for(4))._train(1)
    content = json.loads((home.state / ACCOUNT).read_bytes())
    del content["sha256"]
    (home.state / ACCOUNT).write_text(json.dumps(content))
    assert opened(home, pays_for(4)).epsilon() == pytest.approx(opacus("rdp", 1))


def test_what_cannot_be_is_said_before_anything_is_promised():
    with pytest.raises(ConfigError, match="below 1 / 400"):
        private_way(Privacy(epsilon=1.0, delta=0.01), LEARNER, DATA.train, 10)
    with pytest.raises(ConfigError, match=r"epsilon 0\.1 does not pay for one round"):
        private_way(Privacy(epsilon=0.1, noise_multiplier=0.5, accountant="rdp"), LEARNER, DATA.train, 10)

    class Branches(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) if inputs.sum() > 0 else super().forward(-inputs)

    branches = prepare(replace(task, model=lambda: Branches(6, 1)))
    with pytest.raises(TaskError, match="no gradients of single examples"):
        private_way(Privacy(epsilon=1.0, noise_multiplier=2.0, accountant="rdp"), branches, DATA.train, 10)


async def test_a_worker_pays_for_the_steps_it_was_asked_for_even_if_it_ends_early(home):
    worker = WorkingLearner(opened(home, pays_for(2)))
    done = await worker.train(1, 10, lambda: True)
    assert (done.work.steps, done.work.full, done.work.examples) == (1, STEPS, 20)
    assert worker.epsilon() == pytest.approx(spent((replace(RELEASE, steps=10),), Budget(9.0, 1e-5, "rdp")))
    assert (await worker.train(2, 0, lambda: False)).work.steps == STEPS
    assert await worker.train(3, 0, lambda: False) is None
