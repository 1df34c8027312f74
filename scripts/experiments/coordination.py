"""The experiments on sessions with a coordinator: failed workers, slow workers, and the same data in a gossip session.

What is run, and how its rows become tables and plots. Simulations and real nodes have the same settings and shares;
rows are kept in one file.
"""

import dataclasses
import hashlib
import json
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.dashboard.plots import Chart, Line, plot_lines
from node.session.balance import Balance, Timing
from node.simulation.coordinated import CoordinatedSettings, simulate_coordinated
from node.simulation.results import key as gossip_key
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import append, opened, parsed, run_sweep
from scripts.experiments.cells import SEEDS
from scripts.experiments.engine import NODE, statements
from scripts.experiments.markdown import NOT_RUN, image, shown, table
from scripts.experiments.samples import Row, Sample
from scripts.experiments.sessions import Case, run_case
from scripts.experiments.sweeping import require_all, say

WORKERS, QUORUM = 6, 3
FAILED = (0, 1, 2, 3, 4, 5)
NODES_FAILED = (0, 2, 3, 4)  # of real ones: up to the quorum, and below
SPLITS = ("iid", "shards:2")
NODES_SPLIT = "shards:2"
STEP_S = 0.02  # that a step of a worker takes at least that is not slow
SLOW = (1, 1, 1, 4, 12)  # times
BALANCED_ROUNDS, UNBALANCED_ROUNDS = 8, 4
FULL_STEPS = 150  # of a worker's round: a fifth of MNIST's images, a fifth of them for validation, batches of 64
PEERS = 5
PEERS_SPLIT = "dirichlet:0.5"
NEVER = "-"  # a cell for which no run is planned
WAYS = {"coordinated": "coordinator and workers", "learned": "gossip, learned rows", "fixed": "gossip, equal rows"}


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is run; `nodes`: real ones too."""

    seeds: Sequence[int] = SEEDS
    rounds: int = 10
    nodes: bool = True

    def failing(self, split: str, failed: int, seed: int = SEEDS[0]) -> CoordinatedSettings:
        """So many of six workers fail after the third round."""
        return CoordinatedSettings(
            workers=WORKERS, quorum=QUORUM, rounds=self.rounds, split=split, seed=seed, failed=failed
        )

    def failing_nodes(self, failed: int) -> Case:
        """The same of real ones."""
        return Case("coordinated", WORKERS, self.rounds, NODES_SPLIT, QUORUM, failed=failed)

    def led(self, seed: int = SEEDS[0]) -> CoordinatedSettings:
        """The coordinated side of the comparison with gossip."""
        return CoordinatedSettings(workers=PEERS, quorum=PEERS, rounds=self.rounds, split=PEERS_SPLIT, seed=seed)

    def gossip(self, sharing: str, seed: int = SEEDS[0]) -> SimulationSettings:
        """The gossip side."""
        return SimulationSettings(
            task="mnist-softmax", members=PEERS, rounds=self.rounds, split=PEERS_SPLIT, sharing=sharing, seed=seed
        )

    def compared_nodes(self, topology: str) -> Case:
        """Either of real ones."""
        return Case(topology, PEERS, self.rounds, PEERS_SPLIT, PEERS)


FULL, QUICK = Extent(), Extent((1,), 4, nodes=False)


@dataclass(frozen=True, slots=True)
class Speeds:
    """A session in which every round waits for everybody."""

    name: str
    slow: tuple[int, ...]
    balance: bool
    rounds: int

    @property
    def nodes(self) -> Case:
        """Real ones, throttled."""
        throttle = tuple(STEP_S * times for times in self.slow)
        return Case("coordinated", PEERS, self.rounds, "iid", quorum=PEERS, throttle_s=throttle, balance=self.balance)


SPEEDS = (
    Speeds("all alike", (1,) * PEERS, True, BALANCED_ROUNDS),
    Speeds("two slow, balanced", SLOW, True, BALANCED_ROUNDS),
    Speeds("two slow, not balanced", SLOW, False, UNBALANCED_ROUNDS),
)


def run_missing(extent: Extent, options: Namespace, out: Path) -> None:
    """Runs what `out` does not have: simulations first."""
    simulated = [extent.failing(split, failed, seed) for seed in extent.seeds for split in SPLITS for failed in FAILED]
    simulated += [extent.led(seed) for seed in extent.seeds]
    for settings in simulated:
        keep_row(out, simulated_key(settings), lambda: run_simulation(settings, options.data_dir))  # noqa: B023
    cells = [extent.gossip(way, seed) for seed in extent.seeds for way in ("learned", "fixed")]
    runs = [replace(cell, data_dir=options.data_dir) for cell in cells]
    require_all(run_sweep(runs, out, 1, lambda _over, _total: None))
    for case in node_cases(extent) if extent.nodes else ():
        keep_row(out, case.key, lambda: run_case(case, options.data_dir))  # noqa: B023


def node_cases(extent: Extent) -> list[Case]:
    """Every session of real nodes."""
    return [
        *(extent.failing_nodes(failed) for failed in NODES_FAILED),
        *(speeds.nodes for speeds in SPEEDS),
        *(extent.compared_nodes(topology) for topology in ("gossip", "coordinated")),
    ]


def keep_row(out: Path, key: str, run: Callable[[], Row]) -> None:
    """Runs and keeps a row that is not there."""
    with opened(out) as stream:
        if key in {row["key"] for row in parsed(out, stream.read())}:
            return
        row = run()
        say(f"{key[:20]}… {row['settings']}: {row['seconds']:.0f} s")
        append(out, stream, row)


def simulated_key(settings: CoordinatedSettings) -> str:
    """A digest of the settings, and of the simulation's own code."""
    fields = {**dataclasses.asdict(settings), "data_dir": None}
    code = statements((NODE / "simulation" / "coordinated.py").read_text())
    return f"coordinated-{hashlib.sha256(f'{json.dumps(fields, sort_keys=True)}{code}'.encode()).hexdigest()[:32]}"


def run_simulation(settings: CoordinatedSettings, data_dir: Path | None) -> Row:
    """A simulated session's row, of the shape that real ones have."""
    started = time.perf_counter()
    rounds = [dataclasses.asdict(each) for each in simulate_coordinated(replace(settings, data_dir=data_dir))]
    fields = {**dataclasses.asdict(settings), "data_dir": None}
    seconds = time.perf_counter() - started
    return {"key": simulated_key(settings), "settings": fields, "rounds": rounds, "seconds": seconds}


def round_times(speeds: Speeds) -> list[float]:
    """Seconds of each round by the throttle alone, with the coordinator's own rule for who is asked for how much."""
    balance, times = Balance(speeds.balance), []
    for round in range(1, speeds.rounds + 1):
        asked, trips = balance.steps(range(1 + PEERS), round), []
        for member, slow in enumerate(speeds.slow, 1):
            steps = (asked[member] if asked else balance.first_steps) or FULL_STEPS
            trip_s = steps * slow * STEP_S
            balance.observe(Timing(member, round, steps, steps, 0.0, trip_s, 0.0, trip_s, FULL_STEPS))
            trips.append(trip_s)
        times.append(max(trips))
    return times


def sections(rows: Mapping[str, Row], extent: Extent, pictures: Path) -> dict[str, str]:
    """The parts of the document: each a table, and a plot of what there is."""
    return {
        "failed": f"{failed_table(rows, extent)}{plot(failed_chart(rows, extent), 'failed', pictures)}",
        "balancing": f"{balancing_table(rows)}{plot(balancing_chart(rows), 'balancing', pictures)}",
        "topologies": f"{topologies_table(rows, extent)}{plot(topologies_chart(rows, extent), 'topologies', pictures)}",
    }


def plot(chart: Chart, name: str, pictures: Path) -> str:
    """The picture under a table; nothing where there is nothing to draw."""
    if not chart.lines:
        return ""
    plot_lines([chart], pictures / f"{name}.png")
    return f"\n\n{image(f'{name}.png', chart.title)}"


def final(rows: Mapping[str, Row], extent: Extent, settings: CoordinatedSettings) -> Sample:
    """Accuracy of the last model by seed, in percent."""
    keys = {seed: simulated_key(replace(settings, seed=seed)) for seed in extent.seeds}
    return Sample({seed: 100 * rows[key]["rounds"][-1]["accuracy"] for seed, key in keys.items() if key in rows})


def failed_table(rows: Mapping[str, Row], extent: Extent) -> str:
    """By the number of failed workers: the last model's accuracy, and how many rounds closed."""
    lines = []
    for failed in FAILED:
        cells = [shown(final(rows, extent, extent.failing(split, failed)), extent.seeds) for split in SPLITS]
        row = rows.get(extent.failing_nodes(failed).key)
        known = rows.get(simulated_key(extent.failing(NODES_SPLIT, failed, extent.seeds[0])))
        missing = NOT_RUN if failed in NODES_FAILED else NEVER
        real = missing if row is None else f"{100 * row['rounds'][-1]['accuracy']:.2f}"
        closed = [
            none if each is None else str(len(each["rounds"])) for each, none in ((known, NOT_RUN), (row, missing))
        ]
        below = (
            ", below the quorum" if WORKERS - failed < QUORUM else ", the quorum" if WORKERS - failed == QUORUM else ""
        )
        lines.append([f"{failed} of {WORKERS}{below}", *cells, real, *closed])
    header = ["failed", *(f"{split}, simulation" for split in SPLITS), f"{NODES_SPLIT}, nodes"]
    planned = ", ".join(map(str, NODES_FAILED[:-1]))
    why = f"{NEVER}: sessions of real nodes are run with {planned} and {NODES_FAILED[-1]} failed workers only."
    return f"{table([*header, 'rounds closed, simulation', 'rounds closed, nodes'], lines)}\n\n{why}"


def failed_chart(rows: Mapping[str, Row], extent: Extent) -> Chart:
    """Accuracy by the share of failed workers."""
    lines = []
    for split in SPLITS:
        found = [(100 * n / WORKERS, final(rows, extent, extent.failing(split, n))) for n in FAILED]
        found = [(x, sample) for x, sample in found if len(sample)]
        points = [(x, sample.mean) for x, sample in found]
        lines.append(Line(f"{split}, simulation", points, [sample.std for _, sample in found]))
    real = [(n, rows.get(extent.failing_nodes(n).key)) for n in NODES_FAILED]
    seen = [(100 * n / WORKERS, 100 * row["rounds"][-1]["accuracy"]) for n, row in real if row is not None]
    lines.append(Line(f"{NODES_SPLIT}, nodes", seen))
    title = f"Accuracy by failed workers; quorum {QUORUM} of {WORKERS}, lost after round 3"
    return Chart(title, "failed workers (%)", "test accuracy (%)", [line for line in lines if line.points])


def balancing_table(rows: Mapping[str, Row]) -> str:
    """The first round, in which nobody's speed is known, and the mean of the others."""
    lines = []
    for speeds in SPEEDS:
        row = rows.get(speeds.nodes.key)
        real = [NOT_RUN] * 3
        if row is not None:
            times = [each["seconds"] for each in row["rounds"]]
            accuracy = f"{100 * row['rounds'][-1]['accuracy']:.2f} ({len(times)} rounds)"
            real = [f"{times[0]:.1f}", f"{statistics.fmean(times[1:]):.1f}", accuracy]
        counted = round_times(speeds)
        lines.append([speeds.name, *real, f"{counted[0]:.1f}", f"{statistics.fmean(counted[1:]):.1f}"])
    header = ["workers", "nodes: first round (s)", "later (s)", "test accuracy (%)"]
    return table([*header, "by the throttle alone: first (s)", "later (s)"], lines)


def balancing_chart(rows: Mapping[str, Row]) -> Chart:
    """Seconds by round."""
    lines = []
    for speeds in SPEEDS:
        row = rows.get(speeds.nodes.key)
        if row is not None:
            lines.append(Line(f"{speeds.name}, nodes", [(each["round"], each["seconds"]) for each in row["rounds"]]))
        if speeds.slow == SLOW:
            lines.append(Line(f"{speeds.name}, throttle alone", list(enumerate(round_times(speeds), 1))))
    return Chart("Seconds of a round, with and without load balancing", "round", "seconds", lines)


def topologies_table(rows: Mapping[str, Row], extent: Extent) -> str:
    """The last round's accuracy, of real nodes and simulated."""
    lines = []
    for way, name in WAYS.items():
        curves = simulated_curves(rows, extent, way)
        sample = Sample({seed: 100 * curve[-1] for seed, curve in curves.items() if curve})
        real = nodes_curve(rows, extent, way)
        known = f"{100 * real[-1]:.2f}" if real else NOT_RUN if way != "fixed" else NEVER
        lines.append([name, known, shown(sample, extent.seeds)])
    return f"{table(['', 'nodes', 'simulation'], lines)}\n\n{NEVER}: nodes always learn their rows."


def simulated_curves(rows: Mapping[str, Row], extent: Extent, way: str) -> dict[int, list[float]]:
    """Accuracy by round for each seed (fractions)."""
    found = {}
    for seed in extent.seeds:
        if way == "coordinated":
            row = rows.get(simulated_key(extent.led(seed)))
            found[seed] = [] if row is None else [each["accuracy"] for each in row["rounds"]]
        else:
            row = rows.get(gossip_key(extent.gossip(way, seed)))
            found[seed] = [] if row is None else list(row["curves"]["common"])
    return found


def nodes_curve(rows: Mapping[str, Row], extent: Extent, way: str) -> list[float]:
    """Accuracy by round of real nodes (fractions), which know no equal rows."""
    topology = {"coordinated": "coordinated", "learned": "gossip"}.get(way, "")
    row = rows.get(extent.compared_nodes(topology).key)
    return [] if row is None else [each["accuracy"] for each in row["rounds"]]


def topologies_chart(rows: Mapping[str, Row], extent: Extent) -> Chart:
    """Accuracy by round."""
    lines = []
    for way, name in WAYS.items():
        curves = [curve for curve in simulated_curves(rows, extent, way).values() if curve]
        means = [100 * statistics.fmean(each) for each in zip(*curves, strict=False)]
        lines.append(Line(f"{name}, simulation", list(enumerate(means, 1))))
        real = [100 * each for each in nodes_curve(rows, extent, way)]
        lines.append(Line(f"{name}, nodes", list(enumerate(real, 1))))
    drawn = [line for line in lines if line.points]
    return Chart(f"Gossip and coordinated on the same data, {PEERS_SPLIT}", "round", "test accuracy (%)", drawn)
