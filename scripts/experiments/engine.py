"""Which code made the results: a digest of what can change a number, so that runs of two rules never share a table.

Comments, docstrings and formatting do not count. Knows nothing of results beyond the file in which the digest is kept.
"""

import ast
import hashlib
from pathlib import Path

from node.errors import ConfigError

NODE = Path(__file__).parent.parent.parent / "node"
ROOMS = ("learning", "simulation")
# These only report, or are no part of a simulated run.
ASIDE = {
    "accounting",
    "exposure",
    "membership",
    "metrics",
    "privacy",
    "secret_noise",
    "cluster",
    "results",
    "sweep_files",
    "sweeps",
}


def engine_digest() -> str:
    """A digest of the learning and simulation rooms' statements."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((NODE / room).glob("*.py")):
            if path.stem not in ASIDE:
                digest.update(f"{room}/{path.name}\n{statements(path.read_text())}\n".encode())
    return digest.hexdigest()[:16]


def statements(source: str) -> str:
    """A module without its comments and docstrings."""
    tree = ast.parse(source)
    for part in ast.walk(tree):
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def made_here(folder: Path) -> bool:
    """Whether the folder's results are of this code; nothing is, too."""
    note = folder / "engine.txt"
    return not note.exists() or note.read_text().strip() == engine_digest()


def require_engine(folder: Path, keep: bool) -> None:
    """Notes in the folder which code makes its results. Raises ConfigError if other code made those that it has."""
    if not keep and not made_here(folder):
        raise ConfigError(
            f"the results in {folder} were made by other code than this: remove them or give another --results, "
            "or say --keep if the change to node/learning or node/simulation can't change a number"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine.txt").write_text(f"{engine_digest()}\n")
