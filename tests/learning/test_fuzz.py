"""Decoders of updates against what fuzzing has found so far, and against some seconds of more of it."""

import pytest

from tests.fuzzing import does_no_harm, finds_nothing_new
from tests.learning.fuzz import CORPUS, TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_payloads_that_were_found_before_do_no_harm(target):
    does_no_harm(TARGETS[target], CORPUS / target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_coverage_guided_fuzzer_finds_nothing_new(target, tmp_path):
    finds_nothing_new("tests.learning.fuzz", target, tmp_path)
