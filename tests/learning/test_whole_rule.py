"""The whole rule, from updates to the row, against a second implementation in NumPy of node.learning.trust's page.

Of softmax regression, whose mixture's outputs are the mixture of the outputs.
"""

import numpy as np
import pytest
import torch

from node.learning.task import Examples, Task, prepare
from node.learning.trust import Inputs, TrustSettings, TrustState
from node.learning.weigher import Judge, learn_row

FEATURES = 6


class Reference:
    """The rule once more, in NumPy: softmax regression, whose mixture's outputs are the mixture of the outputs."""

    def __init__(self, stacked, inputs, targets, classes):
        self.outputs = np.stack([inputs @ flat[classes:].reshape(classes, -1).T + flat[:classes] for flat in stacked])
        self.targets, self.classes = targets, classes
        self.held = np.bincount(targets, minlength=classes) > 0

    def chances(self, row, rows):
        mixed = np.where(self.held, np.tensordot(row, self.outputs[:, rows], 1), -np.inf)
        mixed = np.exp(mixed - mixed.max(axis=1, keepdims=True))
        return mixed / mixed.sum(axis=1, keepdims=True)

    def losses(self, row, rows, weights):
        return -weights * np.log(self.chances(row, rows)[np.arange(len(rows)), self.targets[rows]])

    def balanced(self, rows):
        counts = np.bincount(self.targets[rows], minlength=self.classes)
        return 1 / counts[self.targets[rows]] / (counts > 0).sum()

    def descent(self, rows, weights, strength, steps):
        logits = np.zeros(len(self.outputs))
        for _ in range(steps):
            row = np.exp(logits) / np.exp(logits).sum()
            wrong = self.chances(row, rows) - np.eye(self.classes)[self.targets[rows]]
            slope = np.einsum("n,nc,knc->k", weights, wrong, np.where(self.held, self.outputs[:, rows], 0))
            logits = logits - min(0.5 / strength, 1) * (slope - row @ slope + strength * logits)
            logits -= logits.mean()
        return np.exp(logits) / np.exp(logits).sum()

    def common(self, order):
        """Learned from one half of the examples, and equal unless the other half proves that it is better."""
        half = (len(order) + 1) // 2
        seen, test = order[:half], order[half:]
        strength = min(0.3 / self.held.mean() ** 2, 3.0)
        row, equal = (
            self.descent(seen, self.balanced(seen), strength, 10),
            np.full(len(self.outputs), 1 / len(self.outputs)),
        )
        by_row, by_equal = (self.losses(each, test, self.balanced(test)) for each in (row, equal))
        gains = np.array([part.sum() for part in np.array_split(by_equal - by_row, 16)])
        return row if gains.mean() > 4 * gains.std(ddof=1) / 4 else equal

    def equally(self, members, rows):
        """The loss of equal sharing among them."""
        row = np.isin(np.arange(len(self.outputs)), members) / len(members)
        return self.losses(row, rows, self.balanced(rows)).sum()

    def personal(self, order):
        return self.descent(order, np.full(len(order), 1 / len(order)), 0.003, 60)

    def recalls(self, rows):
        """Of each update, the mean over the classes that the judge has."""
        best = np.where(self.held, np.nan_to_num(self.outputs[:, rows]), -np.inf).argmax(axis=2)
        hits = best == self.targets[rows]
        return np.mean([hits[:, self.targets[rows] == known].mean(axis=1) for known in self.held.nonzero()[0]], axis=0)


def low_median(values):
    return np.sort(values)[(len(values) - 1) // 2]


class Screen:
    """What a member remembers, and why it stops an update: by distances between updates, not between sketches."""

    def __init__(self):
        self.known, self.usual, self.let_in = [], 0.0, []

    def stopped(self, stacked, rounds, judge, rows, step):
        """Of each stopped update (its position) the question that it failed; the member's own is the first."""
        recalls = judge.recalls(rows)
        causes, norms = {}, np.linalg.norm(stacked, axis=1)

        def ask(question, passes):
            for i in range(1, len(stacked)):
                if i not in causes and not passes(i):
                    causes[i] = question

        def others():
            return [i for i in range(1, len(stacked)) if i not in causes]

        ask("sound", lambda i: norms[i] <= 1000 * max(norms[0], 1))
        clean = np.where(np.isin(np.arange(len(stacked)), list(causes))[:, None], 0, stacked)
        apart = np.linalg.norm(clean[:, None] - clean[None], axis=2)
        same = 0.01 * min(low_median(apart[0, others()]), step)
        ask(
            "new",
            lambda i: all(np.linalg.norm(clean[i] - old) > same for who, old in self.known if who != (i, rounds[i])),
        )
        first = [0, *others()]
        ask("twin", lambda i: all(apart[i, j] > same for j in first if j < i))
        ask("reach", lambda i: apart[0, i] <= 10 * max(step, norms[0]))
        usual = low_median(apart[0, others()])
        ask("familiar", lambda i: not self.usual or apart[0, i] <= 1.6 * self.usual)
        compared = [0, *others()]
        typical = {i: low_median([apart[i, j] for j in compared if j != i]) for i in compared}
        far = max((1.6 + 5 / stacked.shape[1] ** 0.5) * low_median(list(typical.values())), self.usual)
        ask("near", lambda i: len(compared) < 3 or typical[i] <= far)
        least = max(low_median(recalls[others()]), recalls[0] / 2) / 2
        too_far = [
            i
            for i, cause in causes.items()
            if cause in ("familiar", "near") and recalls[i] >= max(least, 0.95 * recalls[0])
        ]
        ask("skilled", lambda i: recalls[i] >= least)
        passed = [0, *others()]
        limit = 0.99 * judge.equally(passed, rows)
        alone = {i: judge.equally([*passed, i], rows) for i in too_far if len(passed) < 4}
        self.let_in = sorted((i for i, loss in alone.items() if loss < limit), key=alone.__getitem__)
        if self.let_in and judge.equally([*passed, *self.let_in], rows) > alone[self.let_in[0]]:
            self.let_in = self.let_in[:1]
        for i in self.let_in:
            del causes[i]
        self.usual = min((self.usual + usual) / 2, 1.25 * self.usual) if self.usual else usual
        self.known = [((member, rounds[member]), clean[member]) for member in range(len(stacked))]
        return causes


@pytest.mark.parametrize("spoilt", [0.0, 2.0], ids=["alike", "one spoilt"])
@pytest.mark.parametrize("objective", ["common", "personal"])
def test_the_whole_row_is_that_of_the_reference(objective, spoilt):
    generator = np.random.default_rng(1)
    classes, features = 4, 6
    truth = generator.normal(size=(classes, features))
    images = generator.normal(size=(400, features)).astype(np.float32)
    targets = (images @ truth[:3].T).argmax(axis=1)  # nobody has class 3
    stacked = np.concatenate([np.zeros(classes), truth.ravel()]) + 0.3 * generator.normal(size=(4, 28))
    stacked[3] += spoilt * generator.normal(size=28)
    stacked = stacked.astype(np.float32)
    learner = prepare(Task("reference", lambda: torch.nn.Linear(features, classes), lambda share: None, classes=4))
    judge = Judge(learner, Examples(torch.from_numpy(images), torch.from_numpy(targets)))
    wishes = TrustSettings(objective, screened=False)
    _, row = learn_row(
        TrustState.fresh(),
        Inputs((0, 1, 2, 3), (1,) * 4, 0, torch.from_numpy(stacked)),
        judge,
        wishes,
        torch.Generator().manual_seed(0),
    )
    reference = Reference(stacked.astype(float), images.astype(float), targets, classes)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0)).numpy()
    if objective == "personal":  # judges by the task's loss, in which the class that it does not have counts too
        reference.held[:] = True
    expected = getattr(reference, objective)(order)
    np.testing.assert_allclose(row, expected, atol=1e-4)
    assert bool(np.ptp(expected) > 0.01) is (objective == "personal" or spoilt > 0)


FIRST = {4: "sound", 5: "twin", 6: "near", 8: "reach"}  # why each is stopped


@pytest.mark.parametrize(
    ("classes", "members", "reasons"),  # the judge has three classes: with ten, λ is at its limit
    [
        (3, range(9), ({**FIRST, 7: "near"}, {5: "new", 7: "familiar"})),
        (10, range(9), ({**FIRST, 7: "skilled"}, {5: "new", 7: "familiar"})),
        (10, (0, 1, 3, 7, 9), ({7: "skilled"}, {9: "familiar"})),  # among few, 7 is let in
    ],
)
def test_two_rounds_with_every_kind_of_update_have_the_row_of_the_reference(classes, members, reasons):
    generator = np.random.default_rng(3)
    truth = np.zeros((classes, FEATURES + 1))
    truth[:3] = 3 * generator.normal(size=(3, FEATURES + 1))
    images = generator.normal(size=(1200, FEATURES)).astype(np.float32)
    targets = (images @ truth[:3, 1:].T + truth[:3, 0]).argmax(axis=1)

    def flat(matrix):
        return np.concatenate([matrix[:, 0], matrix[:, 1:].ravel()])

    def update(noise=0.25):
        return flat(truth) + 3 * noise * generator.normal(size=truth.size)

    first = [update() for _ in range(9)]
    first[2] = update(noise=0.4)  # worse than the others, though honest: the row says so
    first[4] = np.full(truth.size, np.nan)
    first[5] = first[1].copy()
    first[6] = update(noise=2.0)
    first[7] = flat(truth[[1, 2, 0, *range(3, classes)]] * 0.5)
    first[8] = 100 * update()
    second = [update() for _ in range(9)]
    for liar in (2, 6, 8):  # skilled enough, but the mixture is better with less of them
        second[liar] = (
            flat(truth[[0, 2, 1, *range(3, classes)]]) * 0.45
            + flat(truth) * 0.55
            + 0.3 * generator.normal(size=truth.size)
        )
    second[5] = first[3].copy()
    second[7] = 3 * flat(truth)  # far from the others, and better than they are
    first.append(update())
    second.append(4 * second[2])

    learner = prepare(
        Task("reference", lambda: torch.nn.Linear(FEATURES, classes), lambda share: None, classes=classes)
    )
    judge = Judge(learner, Examples(torch.from_numpy(images), torch.from_numpy(targets)))
    state, screen, count = TrustState.fresh(), Screen(), len(members)
    for round, (updates, why) in enumerate(zip((first, second), reasons, strict=True), 1):
        stacked = np.stack([updates[i] for i in members]).astype(np.float32)
        shown = Inputs(tuple(range(count)), (round,) * count, 0, torch.from_numpy(stacked), step=1.0)
        state, row = learn_row(state, shown, judge, TrustSettings("common"), torch.Generator().manual_seed(round))
        exact = stacked.astype(float)
        order = torch.randperm(1200, generator=torch.Generator().manual_seed(round)).numpy()[:1024]
        whole = Reference(exact, images.astype(float), targets, classes)
        causes = screen.stopped(exact, [round] * count, whole, order[:512], step=1.0)
        assert {members[i]: cause for i, cause in causes.items()} == why
        passed = [i for i in range(count) if i not in causes]
        expected = np.zeros(count)
        expected[passed] = Reference(exact[passed], images.astype(float), targets, classes).common(order)
        np.testing.assert_allclose(row, expected, atol=1e-4)
    assert np.ptp(expected[passed]) > 0.02  # it learned something
    assert screen.let_in == ([] if count > 5 else [3])
