"""What a coordinator knows itself of a worker's whole round: from the session, and from the data that it serves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from node.config import Coordination, Privacy
from node.daemon.admission import place_of
from node.daemon.handing_out import Manifest, read_manifest
from node.daemon.prepare import Prepared
from node.errors import DataError
from node.learning.splits import train_validation
from node.learning.task import Task
from node.messages import Content
from node.session.bounds import Most


def known_work(
    prepared: Prepared, coordinated: Coordination, directory: Path, said: Content | None
) -> Callable[[int], Most | None]:
    """By index of a member: its round at most; None where the size of its data is its own word.

    `directory` has the manifest that the notes name, `said`; without it the data are not known.
    """
    session, task = prepared.opened.session, prepared.learner.learner.task
    if session.update == "gradients":
        return lambda _member: Most(coordinated.accumulate)
    manifest = None if said is None else manifest_in(directory, said)
    if manifest is not None:
        splits = manifest.splits

        def of_split(member: int) -> Most:
            place = place_of(coordinated.coordinator, [seat.account for seat in prepared.directory.seats], member)
            return whole_round(task, session.privacy, splits[place % len(splits)].examples)

        return of_split
    if task.local_steps is not None:
        steps = task.local_steps
        return lambda _member: Most(steps)
    return lambda _member: None


def whole_round(task: Task, privacy: Privacy | None, examples: int) -> Most:
    """The work of a round on a split of so many examples, of which the learner keeps some for validation."""
    train = len(train_validation(np.arange(examples))[0])
    if privacy is not None:
        rate = privacy.sample_rate or min(1.0, task.batch_size / train)
        task = replace(task, batch_size=max(1, round(rate * train)))
    steps = task.steps_per_round(train)
    return Most(steps, steps * min(task.batch_size, train))


def manifest_in(directory: Path, said: Content) -> Manifest | None:
    """The manifest of that hash, if it is kept here."""
    try:
        return read_manifest((directory / said.digest.hex()).read_bytes())
    except (OSError, DataError):
        return None
