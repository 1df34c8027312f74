"""Runs the experiments and writes docs/experiments.md.

python -m scripts.experiments                      every missing run (hours; resumable), then the document
python -m scripts.experiments run --rows 1 2 3     only these rows' runs: 1 to 7, 7-graphs, personal, variants, plots
python -m scripts.experiments write                only the document, from whatever runs there are; keeps them beside it
python -m scripts.experiments list --rows 4        the command of every run
python -m scripts.experiments choose               cross-validation of learning rate and prior on held-out training data
python -m scripts.experiments nodes                five real nodes, one of them an attacker, beside the simulation
python -m scripts.experiments coordinated          sessions with a coordinator, simulated and of nine of real nodes
python -m scripts.experiments again --every 40     some finished runs once more: whether this code gives the same bits
python -m scripts.experiments --quick --docs DIR   a few short runs and every plot, under a minute; not over docs/
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ledger import LedgerError
from node.errors import NodeError
from node.learning.datasets import load_images
from node.simulation.attacks import ATTACKS
from node.simulation.results import key, measure
from node.simulation.run import SHARING
from node.simulation.sweeps import read_rows
from scripts.experiments import choose, coordination, nodes, portraits, quick
from scripts.experiments.cells import DATASETS, ROWS, SEEDS, Cell, all_runs, seeded
from scripts.experiments.commands import command
from scripts.experiments.document import Findings, write_document
from scripts.experiments.engine import made_here, require_engine
from scripts.experiments.record import REPORTED, keep, restore, shortened
from scripts.experiments.samples import Results, Row, by_key
from scripts.experiments.sweeping import say, sweep

DOCS = Path(__file__).parent.parent.parent / "docs"
RECORD = DOCS / "experiments" / "results"
RESULTS = Path("runs/experiments")


@dataclass(frozen=True, slots=True)
class Files:
    """Where results are kept."""

    folder: Path

    @property
    def rows(self) -> Path:
        """The reported runs."""
        return self.folder / REPORTED

    @property
    def choice(self) -> Path:
        """The runs on held-out data."""
        return self.folder / "held_out.jsonl"

    @property
    def nodes(self) -> Path:
        """The runs of real nodes, and the simulations beside them."""
        return self.folder / "nodes.jsonl"

    @property
    def coordinated(self) -> Path:
        """The sessions with a coordinator, and what they are compared with."""
        return self.folder / "coordinated.jsonl"


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    if options.results == RESULTS and not options.quick and (options.action == "write" or made_here(RECORD)):
        restore(RECORD, RESULTS)
    try:
        (quickly if options.quick else ACTIONS[options.action])(options, Files(options.results))
    except (NodeError, LedgerError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from here")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=list(ACTIONS), default="all")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="default: all, the first come first"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=seed, default=list(SEEDS), help="fewer than 1 to 5 for a first look")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(nodes.ATTACKS), help="of `nodes`")
    parser.add_argument("--rounds", type=count, default=nodes.ROUNDS, help="of `nodes`")
    parser.add_argument(
        "--sharing", nargs="+", choices=SHARING, default=list(nodes.SHARING), help="of the simulations beside `nodes`"
    )
    parser.add_argument(
        "--every", type=count, default=40, help="of `again`: which finished runs, counted from the first"
    )
    parser.add_argument("--processes", type=count, default=2)
    parser.add_argument("--data-dir", type=Path, help="where the data sets lie, if not where `fl-node` finds them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs' rows")
    parser.add_argument("--docs", type=Path, default=None, help="folder to write into; default: docs/")
    parser.add_argument("--keep", action="store_true", help="go on with results that other code made")
    parser.add_argument("--quick", action="store_true", help="a few short runs; needs --docs")
    options = parser.parse_args()
    if options.quick and options.docs is None:
        parser.error("--quick does not write over docs/: say where with --docs DIR")
    return options


def seed(text: str) -> int:
    """What `fl-node simulate --seed` takes."""
    if not (text.isdecimal() and len(text) <= 10 and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text[:20]} is no seed: give a number of 0 to {2**32 - 1}")
    return int(text)


def count(text: str) -> int:
    """A number of something, one at least."""
    if not (text.isdecimal() and len(text) <= 6 and int(text)):
        raise argparse.ArgumentTypeError(f"{text[:20]} is no number of 1 to 999999")
    return int(text)


def run(options: argparse.Namespace, files: Files) -> None:
    require_data(options.datasets, options.data_dir)
    require_engine(files.folder, options.keep)
    sweep(all_runs(options.rows, options.datasets, options.seeds), options, files.rows)
    if "plots" in options.rows:
        portraits.draw_missing(files.folder, options.data_dir, unchanged)


def write(options: argparse.Namespace, files: Files) -> None:
    say(f"wrote {write_document(found(files), options.docs or DOCS)}")
    if options.docs is None:
        keep(files.folder, RECORD)


def found(files: Files) -> Findings:
    """All results that there are."""
    return Findings(
        Results(by_key(read_rows(files.rows))),
        Results(by_key(read_rows(files.choice)), choose.SEEDS),
        drawn(files.folder, unchanged),
        made_here(files.folder),
        by_key(read_rows(files.nodes)),
        by_key(read_rows(files.coordinated)),
    )


def everything(options: argparse.Namespace, files: Files) -> None:
    run(options, files)
    coordinated(options, files)
    write(options, files)


def show(options: argparse.Namespace, files: Files) -> None:
    done = by_key(read_rows(files.rows))
    for settings in all_runs(options.rows, options.datasets, options.seeds):
        print(f"{'done' if key(settings) in done else 'to do'}  {command(settings)}")


def choice(options: argparse.Namespace, files: Files) -> None:
    require_data(options.datasets, options.data_dir)
    require_engine(files.folder, options.keep)
    cells = [*choose.few_cells(options.datasets), *choose.choice_cells(options.datasets)]
    sweep(seeded(cells, choose.SEEDS), options, files.choice)
    results = Results(by_key(read_rows(files.choice)), choose.SEEDS)
    print(f"{choose.choice_table(results, options.datasets)}\n\n{choose.few_table(results, options.datasets)}")


def real_nodes(options: argparse.Namespace, files: Files) -> None:
    require_data(DATASETS[:1], options.data_dir)
    require_engine(files.folder, options.keep)
    cells = [
        replace(nodes.node_cell(attack, rounds=options.rounds), data_dir=options.data_dir) for attack in options.attacks
    ]
    nodes.run_missing(cells, options.sharing, files.nodes)
    rows = by_key(read_rows(files.nodes))
    print(nodes.nodes_table(rows, options.attacks, options.rounds))
    keys = [
        name
        for cell in cells
        for name in (nodes.node_key(cell), *(key(replace(cell, sharing=way)) for way in options.sharing))
    ]
    print(json.dumps({"rows": [rows[name] for name in keys]}))


def coordinated(options: argparse.Namespace, files: Files) -> None:
    require_data(DATASETS[:1], options.data_dir)
    require_engine(files.folder, options.keep)
    coordination.run_missing(coordination.FULL, options, files.coordinated)


def again(options: argparse.Namespace, files: Files) -> None:
    rows = list(read_rows(files.rows))[:: max(1, options.every)]
    other = [
        row["key"] for row in rows if not is_same(row, measure(replace(settings_of(row), data_dir=options.data_dir)))
    ]
    say(f"{len(rows) - len(other)} of {len(rows)} finished runs have the same numbers now")
    if other:
        raise NodeError(f"these have others: {', '.join(other)}: remove the results, or mend the code")


def settings_of(row: Row) -> Cell:
    """The settings that a row was made with."""
    return Cell(**row["settings"])


def is_same(one: Row, other: Row) -> bool:
    """Whether two rows have the same numbers, but for the time that they took and what is not kept of curves."""
    return {**shortened(one), "seconds": 0} == {**shortened(json.loads(json.dumps(other))), "seconds": 0}


def quickly(options: argparse.Namespace, files: Files) -> None:
    require_data(quick.DATASETS, options.data_dir)
    require_engine(files.folder, options.keep)
    sweep(quick.runs(), options, files.rows)
    portraits.draw_missing(files.folder, options.data_dir, quick.shortened)
    coordination.run_missing(coordination.QUICK, options, files.coordinated)
    results = Results(by_key(read_rows(files.rows)), quick.SEEDS, quick.shortened)
    findings = Findings(
        results,
        Results({}, choose.SEEDS),
        drawn(files.folder, quick.shortened),
        coordinated=by_key(read_rows(files.coordinated)),
        extent=coordination.QUICK,
    )
    say(f"wrote {write_document(findings, options.docs)}")


def require_data(datasets: Sequence[str], data_dir: Path | None) -> None:
    """Raises DataError now, not hours later, when a data set is missing."""
    for dataset in datasets:
        load_images(dataset, data_dir)


def drawn(folder: Path, adapt: Callable[[Cell], Cell]) -> dict[str, portraits.Portrait]:
    """The portraits that there are."""
    found = {name: portraits.read(folder, name, adapt) for name in portraits.PORTRAITS}
    return {name: portrait for name, portrait in found.items() if portrait is not None}


def unchanged(cell: Cell) -> Cell:
    return cell


ACTIONS: Mapping[str, Callable[[argparse.Namespace, Files], None]] = {
    "all": everything,
    "run": run,
    "write": write,
    "list": show,
    "choose": choice,
    "nodes": real_nodes,
    "coordinated": coordinated,
    "again": again,
}

if __name__ == "__main__":
    main()
