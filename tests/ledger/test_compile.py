import json
from pathlib import Path

import pytest

from ledger.abi import artifact
from ledger.compile import build_artifact, compile_sources, is_current, main, write_artifact
from ledger.errors import CompileError

PROJECT = Path(__file__).parents[2]


@pytest.mark.real
def test_the_shipped_artifact_is_what_the_sources_compile_to():
    assert build_artifact(PROJECT) == artifact()


def test_a_current_artifact_is_not_compiled_again(tmp_path):
    assert is_current(PROJECT)
    (tmp_path / "old.json").write_text(json.dumps(artifact() | {"input_sha256": "00"}))
    assert not is_current(PROJECT, tmp_path / "old.json")
    (tmp_path / "junk.json").write_text("[")
    assert not is_current(PROJECT, tmp_path / "junk.json")
    assert not is_current(PROJECT, tmp_path / "missing.json")


@pytest.mark.real
def test_a_warning_of_the_compiler_is_an_error():
    standard = {"language": "Solidity", "sources": {"a.sol": {"content": "contract A {}"}}, "settings": {}}
    with pytest.raises(CompileError, match="warnings are errors"):
        compile_sources(PROJECT, standard)


def test_outside_a_checkout_the_error_says_so(tmp_path, monkeypatch):
    with pytest.raises(CompileError, match="compile in a checkout"):
        write_artifact(tmp_path, tmp_path / "artifact.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="compile in a checkout"):
        main(["--check"])
    with pytest.raises(SystemExit, match="knows --check only, not --chekc"):
        main(["--chekc"])
