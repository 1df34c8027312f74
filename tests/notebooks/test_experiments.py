from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"

SAYS = """
final = {name: of_run[-1] for name, of_run in rounds.items()}
assert final["learned"].attacker_weight < 0.01 < 0.3 < final["fixed"].attacker_weight
assert average(final["learned"], "accuracy") > average(final["fixed"], "accuracy") + 2
assert average(final["learned"], "accuracy") > average(final["learned, attackers absent"], "accuracy") - 1
assert trust(final["learned"])[attackers].to_numpy().max() < 1
"""  # what the notebook's words claim

pytestmark = pytest.mark.real


@pytest.mark.filterwarnings("ignore")  # jupyter's own
def test_the_experiments_notebook_shows_what_the_rule_does_against_label_flippers(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(NOTEBOOKS / "experiments.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(SAYS))
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    client = NotebookClient(notebook, timeout=240, resources=resources)
    client.execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code")
    text = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    for shown in ("honest: [", "weight on attackers (%)", "learned, attackers absent", "precision"):
        assert shown in text
