from dataclasses import replace

import pytest
import torch

from node.learning import trainer
from node.learning.augmentation import crop_and_flip
from node.learning.builtin_tasks import BUILTIN_TASKS
from node.learning.local_work import gradient_of, train_from
from node.learning.many import Pool, Trainer
from node.learning.task import Examples, Task, prepare

CHANCE = torch.Generator().manual_seed(8)
IMAGES = torch.randn(200, 3, 6, 6, generator=CHANCE)
DATA = Examples(IMAGES, torch.randint(2, (200,), generator=CHANCE))


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def crops(image, padding):
    """Every crop of the padded image, and its mirror image."""
    _, side, _ = image.shape
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            crop = padded[:, down : down + side, right : right + side]
            yield crop
            yield crop.flip(2)


def test_each_image_becomes_a_crop_of_itself_padded_or_the_crops_mirror_image():
    changed = crop_and_flip(IMAGES[:20], seeded(), padding=2)
    for before, after in zip(IMAGES, changed, strict=False):
        assert any(torch.equal(after, crop) for crop in crops(before, 2))


def test_every_move_is_made_and_half_of_the_images_are_mirrored():
    image = torch.arange(1.0, 37.0).view(1, 1, 6, 6)
    seen = crop_and_flip(image.expand(4000, 1, 6, 6), seeded(), padding=1)
    found, counts = torch.unique(seen, dim=0, return_counts=True)
    assert len(found) == 18, "nine moves, each with its mirror image"
    assert counts.min() > 4000 / 18 * 0.7
    left = (seen[:, 0, 2, 2] < seen[:, 0, 2, 3]).float().mean()
    assert float(left) == pytest.approx(0.5, abs=0.05)


def test_the_same_seed_gives_the_same_images_and_the_batch_is_left_alone():
    before = IMAGES.clone()
    first, again, other = (crop_and_flip(IMAGES, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(IMAGES, before)
    assert first.shape == IMAGES.shape


def a_task(augment=crop_and_flip):
    def model():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 2))

    return Task("images", model, lambda share: None, classes=2, batch_size=16, augment=augment)


def plan(steps, seed=5):
    return trainer.Plan(steps, seeded(seed))


def test_a_round_that_is_trained_again_is_the_same_and_another_one_is_not():
    learner = prepare(a_task(), seed=1)
    first, again, other = (train_from(learner, learner.initial(), DATA, plan(9, seed)).flat for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    gradients = [gradient_of(learner, learner.initial(), DATA, plan(3)).flat for _ in range(2)]
    assert torch.equal(*gradients)


def test_nodes_and_the_simulation_augment_alike():
    learner = prepare(a_task(), seed=1)
    alone = [trainer.train(learner, learner.initial(), DATA, plan(steps, steps)).flat for steps in (7, 4)]
    assert torch.equal(train_from(learner, learner.initial(), DATA, plan(7, 7)).flat, alone[0])
    pool = Pool.of([DATA, DATA])
    together = Trainer(learner).train(learner.initial().repeat(2, 1), pool, [plan(7, 7), plan(4, 4)])
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
    plain = prepare(a_task(None), seed=1)
    assert not torch.allclose(trainer.train(plain, plain.initial(), DATA, plan(7, 7)).flat, alone[0], atol=1e-4)


def test_the_order_of_the_examples_does_not_depend_on_what_augmentation_draws():
    def wasteful(inputs, generator):
        torch.randn(1000, generator=generator)
        return inputs

    def nothing(inputs, _generator):
        return inputs

    first, second = (prepare(a_task(augment), seed=1) for augment in (wasteful, nothing))
    trained = [trainer.train(each, each.initial(), DATA, plan(30)).flat for each in (first, second)]
    assert torch.equal(*trained)


def test_of_the_built_in_tasks_only_the_resnet_on_cifar10_augments():
    assert [name for name, make in BUILTIN_TASKS.items() if make().augment is not None] == ["cifar10-resnet18"]
    learner = prepare(replace(BUILTIN_TASKS["cifar10-resnet18"](), model=a_task().model))
    assert learner.task.augment is crop_and_flip
