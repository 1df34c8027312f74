"""Decoders against what fuzzing has found so far, and against some seconds of more of it."""

import importlib

import pytest

from tests.fuzzing import SECONDS, does_no_harm, finds_nothing_new
from tests.network.fuzz import CORPUS, TARGETS


def test_all_targets_together_are_fuzzed_for_a_minute():
    learning = importlib.import_module("tests.learning.fuzz")
    assert len(TARGETS) * SECONDS["tests.network.fuzz"] + len(learning.TARGETS) * SECONDS["tests.learning.fuzz"] == 60


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_were_found_before_do_no_harm(target):
    does_no_harm(TARGETS[target], CORPUS / target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_coverage_guided_fuzzer_finds_nothing_new(target, tmp_path):
    finds_nothing_new("tests.network.fuzz", target, tmp_path)
