"""Which code made the results: a digest of what can change a number, so that runs of two rules never share a table.

Comments, docstrings and formatting do not count. Knows nothing of results beyond the file in which the digest is kept.
"""

import ast
import hashlib
from pathlib import Path

from node.errors import ConfigError

NODE = Path(__file__).parent.parent.parent / "node"
NOTE = "engine.txt"  # in a folder of results
ROOMS = ("learning", "simulation")
BESIDE = ("session/cohort.py",)  # who meets whom
# These only report, or are no part of a simulated run.
ASIDE = {
    "accounting",
    "augmentation",
    "coordinated",
    "devices",
    "exposure",
    "membership",
    "metrics",
    "privacy",
    "secret_noise",
    "cluster",
    "sweep_files",
    "sweeps",
}

# An earlier state of the code, and the later one that makes its runs again bit for bit (`again` showed it on a sample).
SAME: dict[str, str] = {}


def engine_digest() -> str:
    """A digest of the statements of the learning and simulation rooms, and of what else decides a number."""
    digest = hashlib.sha256()
    rooms = (path for room in ROOMS for path in sorted((NODE / room).glob("*.py")) if path.stem not in ASIDE)
    for path in [*rooms, *(NODE / name for name in BESIDE)]:
        digest.update(f"{path.parent.name}/{path.name}\n{statements(path.read_text())}\n".encode())
    return digest.hexdigest()[:16]


def statements(source: str) -> str:
    """A module without its comments and docstrings."""
    tree = ast.parse(source)
    for part in ast.walk(tree):
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def made_here(folder: Path) -> bool:
    """Whether the folder's results are of this code, or of one that gives the same bits; nothing is, too."""
    note = folder / NOTE
    if not note.exists():
        return True
    made, now = note.read_text().strip(), engine_digest()
    while made != now and made in SAME:
        made = SAME[made]
    return made == now


def require_engine(folder: Path, keep: bool) -> None:
    """Notes in the folder which code makes its results. Raises ConfigError if other code made those that it has."""
    if not keep and not made_here(folder):
        raise ConfigError(
            f"the results in {folder} were made by other code than this: remove them or give another --results, "
            "or say --keep if the change to node/learning or node/simulation can't change a number"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NOTE).write_text(f"{engine_digest()}\n")
    except OSError as error:
        raise ConfigError(f"{folder} can't be written ({error.strerror}): give another --results") from error
