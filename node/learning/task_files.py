"""Finds a task: a built-in name, or an object in a Python file of the user's. Every failure is one TaskError."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path

from node.errors import TaskError
from node.learning.builtin_tasks import BUILTIN_TASKS
from node.learning.task import Task, prepare

MODULE_NAME = "fl_node_user_task"


def load_task(name_or_path: str) -> Task:
    """The task of that name (`mnist-softmax`), or of that file and variable (`my_task.py:task`).

    The file runs with the rights of the user who named it. Raises TaskError with file, line and cure.
    """
    if name_or_path in BUILTIN_TASKS:
        return BUILTIN_TASKS[name_or_path]()
    path, separator, variable = name_or_path.rpartition(":")
    if not separator or not path.endswith(".py"):
        names = ", ".join(sorted(BUILTIN_TASKS))
        raise TaskError(
            f"unknown task {name_or_path!r}: choose one of {names}, or a file and variable (my_task.py:task)"
        )
    task = _variable(Path(path), variable)
    prepare(task)
    return task


def _variable(path: Path, variable: str) -> Task:
    module = _run(path)
    if not hasattr(module, variable):
        raise TaskError(f"{path} has no variable {variable!r}: write `{variable} = Task(...)` in it")
    task = getattr(module, variable)
    if not isinstance(task, Task):
        raise TaskError(f"{path}: {variable!r} is {type(task).__name__}: make it a node.learning.task.Task")
    return task


def _run(path: Path) -> object:
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise TaskError(f"task file {path} does not exist: check the path before the colon")
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # dataclasses of the user's file look themselves up by it
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything at import
        line = _line(error, path)
        raise TaskError(f"{path}:{line}: {type(error).__name__}: {error}: mend the file so that it imports") from error
    return module


def _line(error: Exception, path: Path) -> int:
    """The last line of that file on the way to the error."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path and frame.lineno is not None]
    return lines[-1] if lines else 1
