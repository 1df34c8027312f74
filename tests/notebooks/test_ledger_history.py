from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

pytestmark = pytest.mark.real


@pytest.mark.filterwarnings("ignore")  # jupyter's own
def test_the_ledger_notebook_runs_against_a_real_session(finished_run, monkeypatch):
    monkeypatch.setenv("SESSION", str(finished_run.session_file))
    monkeypatch.setenv("RPC", finished_run.chain.url)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # plots come as outputs of their cells
    notebook = nbformat.read(NOTEBOOKS / "ledger_history.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3  # trust over time, trust, influence
    text = "".join(str(output.get("data", {}).get("text/plain")) for output in outputs)
    for told in ("pipe-flow", "influence", "rounds last", "MemberJoined", "Recorded", "ether"):
        assert told in text, told


def test_a_session_without_a_complete_round_is_named_as_the_reason():
    notebook = nbformat.read(NOTEBOOKS / "ledger_history.ipynb", as_version=4)
    (source,) = [cell.source for cell in notebook.cells if "last_round = " in cell.source]
    records = pd.DataFrame({"round": [1], "complete": [False]})
    with pytest.raises(ValueError, match="no member has recorded the mix of a round yet"):
        exec(source, {"records": records})
