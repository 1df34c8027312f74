"""A signal ends a node at any time: its start at once, its rounds in their own way."""

import os
import signal
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import torch
import trio

from node.daemon import run
from node.daemon.settings import StartSettings
from node.daemon.signals import ended_by_signals
from node.errors import StorageError
from node.home import Home, running_pid


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture
def opening(monkeypatch):
    """What a node does where it opens its parts; it has a session, and nothing else."""
    session = SimpleNamespace(name="s", rounds=3, task="t")
    prepared = SimpleNamespace(
        opened=SimpleNamespace(session=session, session_id=1),
        directory=SimpleNamespace(own_index=0),
        learner=SimpleNamespace(device=run.CPU),
    )
    found = SimpleNamespace(prepare=lambda: None, work=trio.sleep_forever, closed=False)

    def prepare(settings):
        found.prepare()
        return prepared

    @asynccontextmanager
    async def parts(*_):
        try:
            await found.work()
            yield None
        finally:
            found.closed = True

    monkeypatch.setattr(run, "prepare_node", prepare)
    monkeypatch.setattr(run, "open_parts", parts)
    return found


def settings(path):
    return StartSettings(Home(path), path, "", threads=torch.get_num_threads())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_node_that_waits_for_a_key_ends_at_a_signal(tmp_path, opening, number):
    async def wait():
        send(number)
        await trio.sleep_forever()

    told = []
    opening.work = wait
    with trio.fail_after(5):
        assert await run.run_node(settings(tmp_path), told.append) is None
    assert opening.closed
    assert running_pid(Home(tmp_path)) is None
    assert number.name in told[-1]


async def test_a_signal_while_a_node_prepares_itself_opens_nothing(tmp_path, opening):
    opening.prepare = send
    with trio.fail_after(5):
        assert await run.run_node(settings(tmp_path), print) is None


async def test_what_fails_at_a_start_is_raised_as_it_is(tmp_path, opening):
    async def fail():
        raise StorageError("no member gave the key")

    opening.work = fail
    with pytest.raises(StorageError, match="no member"):
        await run.run_node(settings(tmp_path), print)


async def test_once_the_rounds_go_on_they_decide():
    heard, undisturbed = [], False
    with trio.fail_after(5):
        async with ended_by_signals(print) as heeding:
            heeding.by = heard.append
            for number in (signal.SIGTERM, signal.SIGINT):
                send(number)
                while number not in heard:
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            undisturbed = True
    assert undisturbed
