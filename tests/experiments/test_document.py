import json
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import ConfigError, NodeError
from node.simulation.sweeps import read_rows
from scripts.experiments import document, engine, tables
from scripts.experiments.__main__ import RECORD, Files, found, is_same
from scripts.experiments.bars import ROW_BARS
from scripts.experiments.cells import SHARED
from scripts.experiments.record import keep, restore
from scripts.experiments.sweeping import sweep

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "tests" / "learning" / "example_task.py"
TEXT = (ROOT / "docs" / "experiments.md").read_text()


def test_the_document_is_what_the_template_makes():
    prose = [line for line in document.TEMPLATE.read_text().splitlines() if not document.PART.match(line)]
    written = iter(TEXT.splitlines())
    missing = [line for line in prose if line not in written]
    assert missing == [], "write it again: python -m scripts.experiments write"


def test_the_document_is_what_the_kept_results_make(tmp_path):
    assert restore(RECORD, tmp_path / "results")
    parts = document.parts(found(Files(tmp_path / "results")), tmp_path)
    assert document.filled(document.TEMPLATE.read_text(), parts) == TEXT, "python -m scripts.experiments write"


def test_results_are_kept_packed_and_in_one_order_and_restored_where_there_are_none(tmp_path):
    results, record = tmp_path / "results", tmp_path / "record"
    results.mkdir()
    rows = [{"key": key, "loss": 1 / 3, "curves": {"own": [2 / 3, None]}, "seconds": 1.5} for key in "ba"]
    (results / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (results / "engine.txt").write_text("cafe\n")
    keep(results, record)
    assert {path.name for path in record.iterdir()} == {"rows.jsonl.xz", "engine.txt"}
    assert not restore(record, results)
    assert restore(record, tmp_path / "other")
    kept = [json.loads(line) for line in (tmp_path / "other" / "rows.jsonl").read_text().splitlines()]
    assert [row["key"] for row in kept] == ["a", "b"]
    assert kept[0] == {**rows[1], "curves": {"own": [0.6667, None]}}
    assert is_same(kept[1], {**rows[0], "seconds": 2.0})
    assert not is_same(kept[1], {**rows[0], "loss": 0.333333})
    assert (tmp_path / "other" / "engine.txt").read_text() == "cafe\n"


def test_every_picture_of_the_document_is_there_and_small():
    for name in re.findall(r"\]\((experiments/[^)]*)\)", TEXT):
        assert (ROOT / "docs" / name).stat().st_size < 80_000


def test_a_template_with_an_unknown_part_is_refused():
    with pytest.raises(KeyError, match="tipo"):
        document.filled("{{ tipo }}\n", {})


def test_the_summary_has_the_rows_that_are_judged():
    assert [row for row, _, _ in tables.SUMMARY] == list(ROW_BARS)


@pytest.mark.real
def test_the_quick_form_makes_every_table_and_plot(tmp_path):
    places = ["--results", str(tmp_path / "results"), "--docs", str(tmp_path)]
    command = [sys.executable, "-m", "scripts.experiments", "--quick", "--processes", "1", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "experiments.md").read_text()
    assert "{{" not in text
    for row in ("1", "2", "3", "4", "6", "7"):
        assert re.search(rf"^\| {row} \|.* of \d+ met", text, re.MULTILINE), row
    pictures = {path.name for path in (tmp_path / "experiments").glob("*.png")}
    assert {f"{name}.png" for name in ("rounds", "rounds_attacked", "members", "bytes", "attackers")} <= pictures
    assert {"trust_label_flip.png", "confusion_label_flip.png", "trust_personal.png"} <= pictures


@pytest.mark.real
def test_results_of_other_code_are_not_mixed_with_ours(tmp_path):
    engine.require_engine(tmp_path, keep=False)
    engine.require_engine(tmp_path, keep=False)
    (tmp_path / "engine.txt").write_text("0123456789abcdef\n")
    with pytest.raises(ConfigError, match="--keep"):
        engine.require_engine(tmp_path, keep=False)
    engine.require_engine(tmp_path, keep=True)
    assert engine.made_here(tmp_path)


def test_results_of_code_that_gives_the_same_bits_are_ours_too(tmp_path, monkeypatch):
    (tmp_path / "engine.txt").write_text("first\n")
    monkeypatch.setattr(engine, "engine_digest", lambda: "third")
    monkeypatch.setattr(engine, "SAME", {"first": "second"})
    assert not engine.made_here(tmp_path)
    monkeypatch.setattr(engine, "SAME", {"first": "second", "second": "third"})
    assert engine.made_here(tmp_path)


def test_comments_do_not_make_other_code():
    assert engine.statements('def f():\n    """Says."""\n    return 1  # one\n') == engine.statements(
        "def f():\n    return 1\n"
    )
    assert engine.statements("x = 1") != engine.statements("x = 2")


@pytest.mark.real
def test_a_run_that_fails_does_not_keep_the_others_from_running(tmp_path, capsys):
    cells = [replace(SHARED, task=f"{EXAMPLE}:task", rounds=1, sharing=way) for way in ("fixed", "witchcraft", "none")]
    options = Namespace(data_dir=None, processes=1)
    with pytest.raises(NodeError, match=r"1 runs failed.*witchcraft"):
        sweep(cells, options, tmp_path / "rows.jsonl")
    assert {row["settings"]["sharing"] for row in read_rows(tmp_path / "rows.jsonl")} == {"fixed", "none"}
    assert "3 runs, 3 to do on 1 processes, about 18 s" in capsys.readouterr().err
