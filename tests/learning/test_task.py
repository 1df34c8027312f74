from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from node.errors import TaskError
from node.learning.task import Share, Task, prepare
from node.learning.task_files import load_task

EXAMPLE = Path(__file__).parent / "example_task.py"


def written(tmp_path, text):
    path = tmp_path / "my_task.py"
    path.write_text(text)
    return path


def test_a_task_of_ones_own_is_loaded_from_its_file():
    task = load_task(f"{EXAMPLE}:task")
    assert task.name == "pipe-flow"
    assert len(task.data(Share()).train) == 400


def test_built_in_tasks_are_found_by_name():
    assert prepare(load_task("mnist-softmax")).spec.size == 7850
    assert prepare(load_task("fashion-cnn")).spec.names[0] == "0.bias"


@pytest.mark.parametrize(
    ("text", "variable", "message"),
    [
        ("x = 1\nimport no_such_package\n", "task", r"my_task\.py:2: ModuleNotFoundError.*mend"),
        ("x = (\n", "task", r"my_task\.py:1: SyntaxError"),
        ("x = 1\n", "task", "has no variable 'task'"),
        ("task = 7\n", "task", "'task' is int: make it a node.learning.task.Task"),
    ],
)
def test_a_file_that_is_no_task_gets_one_line_with_the_cure(tmp_path, text, variable, message):
    with pytest.raises(TaskError, match=message):
        load_task(f"{written(tmp_path, text)}:{variable}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TaskError, match=r"gone\.py does not exist"):
        load_task(f"{tmp_path / 'gone.py'}:task")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TaskError, match=r"unknown task 'minst'.*mnist-softmax"):
        load_task("minst")


def task_with(model):
    return Task("mine", model, data=lambda share: None)


def test_batch_statistics_are_refused_with_the_cure():
    with pytest.raises(TaskError, match=r"layer '1' is BatchNorm2d.*GroupNorm"):
        prepare(task_with(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))


@pytest.mark.parametrize(
    ("model", "message"), [(lambda: 3, "returned int"), (lambda: nn.Linear("a", 1), "model\\(\\) failed")]
)
def test_a_model_that_is_none_is_refused(model, message):
    with pytest.raises(TaskError, match=message):
        prepare(task_with(model))


def test_the_seed_alone_decides_the_initial_parameters():
    task = load_task("mnist-cnn")
    torch.manual_seed(1)
    first = prepare(task, seed=5).initial()
    torch.manual_seed(2)
    assert torch.equal(first, prepare(task, seed=5).initial())
    assert not torch.equal(first, prepare(task, seed=6).initial())


def test_only_models_and_losses_of_torch_and_our_own_are_plain():
    class Odd(torch.nn.Linear):
        pass

    own = load_task("mnist-softmax")
    assert prepare(own).plain
    assert prepare(load_task("mnist-cnn")).plain
    assert not prepare(replace(own, model=lambda: Odd(3, 2))).plain
    assert not prepare(replace(own, loss=lambda outputs, targets: outputs.mean())).plain
