import hashlib
import math
from dataclasses import replace

import pytest
import torch

from node.config import Aggregation
from node.daemon.averaging import MOMENTS, AveragingLearner, Pace, WorkingLearner
from node.daemon.learner import Seat, TorchLearner
from node.daemon.reach import farthest
from node.errors import HomeError, SessionOver
from node.learning import parameters
from node.learning.aggregation import ADAPTIVE, decode_moments
from node.learning.codecs import codec
from node.learning.pure import batch_loss
from node.learning.task import Share, prepare
from node.learning.trust import TrustSettings
from node.session.convergence import Goal, why_end
from node.session.coordinated import Counted
from node.session.ports import Contribution
from tests.learning.example_task import task

WHOLE = replace(task, batch_size=400)  # one batch is all of a worker's examples


def learner(member, a_task=WHOLE):
    made = prepare(a_task, seed=3)
    seat = Seat(7, 3, member)
    return TorchLearner(
        made, a_task.data(Share(seed=3, index=member)), codec("float32"), seat, TrustSettings(), made.initial()
    )


async def rounds(boss, workers, count):
    """So many rounds in memory; what the boss said of each."""
    said = []
    for round in range(1, count + 1):
        model, updates = await boss.model(), []
        for worker in workers:
            await worker.adopt(model.payload, False)
            done = await worker.train(round, 0, lambda: False)
            member = worker.torch_learner.seat.member
            updates.append(Counted(Contribution(member, round, done.trained.payload), done.work.examples))
        said.append(await boss.aggregate(round, updates))
    return said


def with_examples(member, count):
    """A learner of the first `count` of its examples."""
    made = learner(member)
    made.data = replace(made.data, train=made.data.train.rows(torch.arange(count)))
    return made


async def test_a_model_that_is_not_finite_ends_the_session_and_not_only_this_node():
    boss = AveragingLearner(learner(0), Aggregation(rule="sgd", server_rate=1000.0), rounds=20)
    with pytest.raises(SessionOver, match="is not finite: lower the session's server_rate"):
        await rounds(boss, [WorkingLearner(learner(1), batches=1)], 20)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(
    ("examples", "weights"),
    [
        ((400, 400), (1, 1)),
        ((400, 400, 400), (1, 1, 1)),
        ((400,) * 5, (1,) * 5),
        ((400,) * 7, (1,) * 7),
        ((400,) * 8, (1,) * 8),
        ((400, 311, 97), (400, 311, 97)),
        ((400, 300, 50, 350), (8, 6, 1, 7)),
    ],
)
async def test_gradients_of_one_batch_each_are_large_batch_sgd_on_one_machine(examples, weights, schedule):
    rule = Aggregation(rule="sgd", server_rate=0.05, momentum=0.9, schedule=schedule)
    boss = AveragingLearner(learner(0), rule, rounds=12)
    workers = [WorkingLearner(with_examples(member, n), batches=1) for member, n in enumerate(examples, 1)]
    said = await rounds(boss, workers, 12)
    assert {tuple(entry.weight for entry in each.inputs) for each in said} == {(0, *weights)}

    alone = learner(0)
    data = [worker.torch_learner.data.train for worker in workers]
    inputs, targets = torch.cat([each.inputs for each in data]), torch.cat([each.targets for each in data])
    flat = torch.nn.Parameter(alone.flat.clone())
    optimizer = torch.optim.SGD([flat], 0.05, 0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12) if schedule == "cosine" else None
    for _ in range(12):
        optimizer.zero_grad()
        batch_loss(alone.learner)(flat, inputs, targets).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    torch.testing.assert_close(boss.torch_learner.flat, flat.detach(), rtol=1e-5, atol=1e-7)


async def test_adam_keeps_its_state_over_a_restart():
    rule = Aggregation(rule="adam", server_rate=0.1)
    whole = AveragingLearner(learner(0), rule, rounds=6)
    await rounds(whole, [WorkingLearner(learner(1), batches=1)], 4)
    first = AveragingLearner(learner(0), rule, rounds=6)
    await rounds(first, [WorkingLearner(learner(1), batches=1)], 2)
    again = AveragingLearner(learner(0), rule, rounds=6)
    again.restore(first.checkpoint())
    assert again.used() == {1: 2}
    worker, model = WorkingLearner(learner(1), batches=1), None
    for round in (3, 4):
        model = await again.model()
        await worker.adopt(model.payload, False)
        done = await worker.train(round, 0, lambda: False)
        await again.aggregate(round, [Counted(Contribution(1, round, done.trained.payload), done.work.examples)])
    assert torch.equal(again.torch_learner.flat, whole.torch_learner.flat)


async def test_a_gradient_is_accumulated_over_so_many_batches():
    small = replace(task, batch_size=20)
    worker = WorkingLearner(learner(1, small), batches=5)
    done = await worker.train(1, 0, lambda: False)
    assert (done.work.steps, done.work.full, done.work.examples) == (5, 5, 100)
    assert (await worker.train(1, 2, lambda: False)).work.steps == 2


async def test_the_row_is_what_was_used_and_the_coordinator_itself_has_no_weight():
    boss = AveragingLearner(learner(0), Aggregation())
    workers = [WorkingLearner(learner(member)) for member in (1, 2, 3)]
    (said,) = await rounds(boss, workers, 1)
    assert [entry.member for entry in said.inputs] == [0, 1, 2, 3]
    assert [entry.weight for entry in said.inputs] == [0, 21845, 21845, 21845]
    encoded = parameters.encode(boss.torch_learner.learner.spec, boss.torch_learner.flat)
    assert hashlib.sha256(encoded).digest() == said.digest


async def test_federated_rounds_learn_the_pipe():
    boss = AveragingLearner(learner(0, task), Aggregation())
    said = await rounds(boss, [WorkingLearner(learner(member, task)) for member in (1, 2)], 5)
    assert said[-1].metrics["test_loss"] < 0.02


def payload(boss, *numbers, form="float32"):
    """An update with these numbers first, else of zeros."""
    flat = torch.zeros(boss.torch_learner.learner.spec.size)
    flat[: len(numbers)] = torch.tensor(numbers)
    return codec(form).encode(boss.torch_learner.learner.spec, flat, None, None).payload


@pytest.mark.parametrize("form", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", sorted(ADAPTIVE | {"adam"}))
async def test_an_update_whose_square_the_optimizer_cannot_hold_is_refused_as_its_senders_fault(rule, form, tmp_path):
    boss = AveragingLearner(learner(0), Aggregation(rule=rule), rounds=9)
    boss.torch_learner.codec = codec(form)
    assert await boss.accepts(payload(boss, 0.1, 1e15, form=form)) is None
    for far in (1e20, -1e19, 3e38):
        said = await boss.accepts(payload(boss, 0.1, far, form=form))
        assert said.startswith("update holds ")
        assert said.endswith(f"from the model: {rule} adds up squares, and can hold those of at most 4.35e+18")
    on_disk = tmp_path / "payload"
    on_disk.write_bytes(payload(boss, 0.1, 1e20, form=form))
    assert "(number 1)" in await boss.accepts(on_disk)
    assert boss.torch_learner.refused_updates == 4
    assert boss.torch_learner.tally.counts == {"update-out-of-range": 4}


async def test_rules_without_an_optimizer_take_any_finite_update():
    for rule in ("fedavg", "trimmed_mean", "sgd"):
        boss = AveragingLearner(learner(0), Aggregation(rule=rule), rounds=9)
        assert await boss.accepts(payload(boss, 3e38)) is None


@pytest.mark.parametrize("rule", sorted(ADAPTIVE | {"adam"}))
async def test_the_farthest_updates_that_are_taken_leave_the_optimizers_state_finite_to_the_end(rule):
    rounds = 9
    boss = AveragingLearner(learner(0), Aggregation(rule=rule), rounds=rounds)
    for round in range(1, rounds + 1):
        far = [(farthest(rounds) * 0.999, -farthest(rounds) * 0.999)[round % 2]] * 3
        if rule != "adam":
            far = [far[0] + float(number) for number in boss.torch_learner.flat[:3]]
        update = payload(boss, *far)
        assert await boss.accepts(update) is None
        said = await boss.aggregate(round, [Counted(Contribution(1, round, update), 10)])
        decode_moments(boss.rule, said.files[MOMENTS], len(boss.torch_learner.flat))
    assert torch.isfinite(boss.moments.second).all()


async def test_an_optimizers_state_that_is_not_finite_ends_the_session_before_it_is_kept():
    boss = AveragingLearner(learner(0), Aggregation(rule="fedadam"), rounds=9)
    update = payload(boss, 0.1, 1e20)
    with pytest.raises(SessionOver, match="optimizer's state of round 1 is not finite: create the session again"):
        await boss.aggregate(1, [Counted(Contribution(1, 1, update), 10)])
    assert torch.isfinite(boss.moments.second).all()


@pytest.mark.parametrize("goal", [Goal("loss", target=0.1), Goal("loss", plateau=1)])
async def test_a_coordinator_that_measured_no_finite_number_starts_again(goal):
    boss = AveragingLearner(learner(0), Aggregation())
    spec = boss.torch_learner.learner.spec
    signs = torch.randn(spec.size, generator=torch.Generator().manual_seed(1)).sign()
    far = Counted(Contribution(1, 1, parameters.encode(spec, 3e38 * signs)), 10)
    near = Counted(Contribution(2, 1, (await boss.model()).payload), 10)
    said = await boss.aggregate(1, [far, near])
    assert math.isnan(said.metrics["validation_loss"])
    again = AveragingLearner(learner(0), Aggregation())
    again.restore(boss.checkpoint())
    assert why_end(goal, boss.history()) == why_end(goal, again.history()) == ""


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(HomeError, match="no coordinator's"):
        AveragingLearner(learner(0), Aggregation()).restore(learner(0).checkpoint())


@pytest.mark.parametrize("batches", [0, 3])
async def test_a_round_with_augmentation_that_is_trained_again_after_a_restart_is_the_same(batches):
    def shaken(inputs, generator):
        return inputs + torch.randn(inputs.shape, generator=generator)

    noisy = replace(task, augment=shaken)
    seen = []
    for round, a_task in ((3, noisy), (3, noisy), (4, noisy), (3, task)):
        worker = WorkingLearner(learner(1, a_task), batches=batches)
        seen.append((await worker.train(round, 0, lambda: False)).trained.digest)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3, "other rounds draw otherwise, and the draws count"


@pytest.mark.parametrize(("work_s", "seconds"), [(0.0, 2.0), (0.05, 2.0), (0.3, 6.0)])
def test_a_throttled_worker_takes_so_long_for_a_step_whatever_of_it_is_work(work_s, seconds):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    pace = Pace(0.1, lambda: now[0], sleep)
    for _ in range(20):
        pace.keep()
        now[0] += work_s
    assert now[0] == pytest.approx(seconds, abs=0.11)
    Pace(0.0, lambda: now[0], pytest.fail).keep()
