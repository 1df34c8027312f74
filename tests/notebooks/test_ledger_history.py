from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

pytestmark = pytest.mark.real


@pytest.mark.filterwarnings("ignore")  # jupyter's own
def test_the_ledger_notebook_runs_against_a_real_session(finished_run, monkeypatch):
    monkeypatch.setenv("SESSION", str(finished_run.session_file))
    monkeypatch.setenv("RPC", finished_run.chain.url)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(NOTEBOOKS / "ledger_history.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    text = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "3 rows" not in text or "error" not in text
    assert "pipe-flow" in text
    assert "MemberJoined" not in text
