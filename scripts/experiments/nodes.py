"""The node itself under attack: a chain, five processes, one of them with --misbehave; beside it the simulation.

Rows are kept in one file: the node's, whose keys begin with "nodes-", and those of the simulations with its settings.
"""

import math
import secrets
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledger import Devnet, DevnetOptions, History, load_keystore
from node.agreement import OpenSession
from node.daemon.admission import join_session
from node.demo import DemoNode, DemoSettings, end_all, follow, make_home, make_session, names, start_node
from node.errors import NodeError
from node.messages import WEIGHT_SUM
from node.network.identity import load_identity
from node.simulation.attacks import ATTACKS as ALL_ATTACKS
from node.simulation.attacks import draw_attackers
from node.simulation.results import key, settings_row
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import append, opened, parsed, run_sweep
from scripts.experiments.cells import DATASETS, SEEDS, Cell
from scripts.experiments.markdown import NOT_RUN, table
from scripts.experiments.samples import Row
from scripts.experiments.sweeping import require_all, say

FIRST = ("sign_flip", "ipm", "label_flip", "gaussian", "constant", "copy")
ATTACKS = (*FIRST, *(kind for kind in ALL_ATTACKS if kind not in FIRST))
SHARING = ("learned", "fixed")  # the node learns; fixed sharing shows what the attack would do
ROUNDS = 10
MEMBERS = 5
PREFIX = "nodes-"
SLOW_S = 120.0  # of a round, on a machine that has other things to do
AGREE = 0.5  # points of accuracy
AGREE_WEIGHT = 1.0  # and of weight on the attacker


def node_cell(attack: str, sharing: str = "learned", rounds: int = ROUNDS) -> Cell:
    """One of five members attacks, iid, objective `common`."""
    return SimulationSettings(
        task=f"{DATASETS[0]}-softmax",
        members=MEMBERS,
        rounds=rounds,
        sharing=sharing,
        seed=SEEDS[0],
        attack=attack,
        attackers=1,
    )


def run_missing(cells: Sequence[Cell], sharing: Sequence[str], out: Path) -> None:
    """Runs of every cell what `out` does not have: real nodes first, then the simulations."""
    for cell in cells:
        with opened(out) as stream:
            if node_key(cell) not in {row["key"] for row in parsed(out, stream.read())}:
                say(f"5 nodes, one of them with --misbehave {cell.attack}")
                row = run_nodes(cell)
                append(out, stream, row)
        require_all(run_sweep([replace(cell, sharing=way) for way in sharing], out, 1, lambda _over, _total: None))


def node_key(cell: Cell) -> str:
    """The key of the real run with the settings of a simulation."""
    return f"{PREFIX}{key(cell)}"


def run_nodes(cell: Cell) -> Row:
    """Real nodes with the settings of a simulation; who attacks is the same member. NodeError if one of them fails."""
    started = time.monotonic()
    [attacker] = draw_attackers(cell)
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        settings = DemoSettings(
            out=Path(place),
            task=cell.task,
            members=cell.members,
            rounds=cell.rounds,
            split=cell.split,
            objective=cell.objective,
            snapshot_every=cell.rounds,
            seed=cell.seed,
            data_dir=cell.data_dir,
            timeout_s=1800.0,
            round_deadline_s=SLOW_S,
            experiment=True,
        )
        chain = stack.enter_context(Devnet(DevnetOptions(block_time=1.0, free_gas=True)))
        passphrase = secrets.token_urlsafe(16)
        nodes = [make_home(settings.out / name, name, passphrase) for name in names(cell.members)]
        session = make_session(settings, nodes[0], passphrase, chain.url)
        for node in nodes:
            join(node, session, passphrase)
        stack.callback(end_all, nodes)
        for index, node in enumerate(nodes):
            extra = ["--task", cell.task, *(["--misbehave", str(cell.attack)] if index == attacker else [])]
            node.process = start_node(settings, node, nodes[0] if index else None, passphrase, extra)
        faults = follow(nodes, settings, lambda _statuses: None)
        if faults:
            raise NodeError(f"{cell.attack}: {'; '.join(faults)}")
        with History(session.ledger, session.session_id) as history:
            weights = weights_on(history, attacker)
        statuses = [node.status() for node in nodes]
    row = {"key": node_key(cell), "settings": settings_row(cell), "attacker": attacker}
    return {**row, **outcome(statuses, weights, attacker, cell.rounds), "seconds": time.monotonic() - started}


def join(node: DemoNode, session: OpenSession, passphrase: str) -> None:
    """Makes a node a member before it starts: the order of these calls gives the members' indices."""
    join_session(session, load_identity(node.home.identity), load_keystore(node.home.keystore, passphrase))


def weights_on(history: History, attacker: int) -> dict[int, dict[int, float]]:
    """By round and honest member the weight on the attacker, a fraction, as it is on the ledger."""
    weights: dict[int, dict[int, float]] = {}
    for entry in history.trust_rows().to_dict(orient="records"):
        if entry["peer"] == attacker != entry["member"]:
            weights.setdefault(int(entry["round"]), {})[int(entry["member"])] = int(entry["weight"]) / WEIGHT_SUM
    return weights


def outcome(
    statuses: Sequence[Mapping[str, Any]], weights: Mapping[int, Mapping[int, float]], attacker: int, rounds: int
) -> Row:
    """What came of it, with the names of a simulated run: means over the honest members, who must all be there."""
    honest = {status["member"]: status["finished_rounds"] for status in statuses if status["member"] != attacker}
    short = [member for member, seen in honest.items() if [entry["round"] for entry in seen] != [*range(1, rounds + 1)]]
    if short or any(weights.get(round, {}).keys() != honest.keys() for round in range(1, rounds + 1)):
        raise NodeError(f"rounds are missing, of members {short} on disk, or else on the ledger: run it again")
    curves: dict[str, list[list[float]]] = {"loss": [], "accuracy": []}
    for i in range(rounds):
        metrics = [seen[i]["metrics"] for seen in honest.values()]
        for name, curve in curves.items():
            values = [each[f"test_{name}"] for each in metrics if f"test_{name}" in each]
            curve.append([math.nan if value is None else value for value in values])  # null: was no finite number
    last = curves["accuracy"][-1]
    by_round = [statistics.fmean(weights[round].values()) for round in range(1, rounds + 1)]
    return {
        "loss": statistics.fmean(curves["loss"][-1]),
        "common_accuracy": statistics.fmean(last) if last else None,
        "std_over_members": statistics.pstdev(last) if last else None,
        "attacker_weight": by_round[-1],
        "members": sorted(honest),
        "curves": {
            "common": [statistics.fmean(seen) if seen else None for seen in curves["accuracy"]],
            "attacker_weight": by_round,
        },
    }


def nodes_table(rows: Mapping[str, Row], attacks: Sequence[str] = ATTACKS, rounds: int = ROUNDS) -> str:
    """A line per attack: the node's accuracy and weight beside the simulation's, in percent."""
    lines = []
    for attack in attacks:
        found = rows.get(node_key(node_cell(attack, rounds=rounds)))
        learned, fixed = (rows.get(key(node_cell(attack, way, rounds))) for way in SHARING)
        cells = [accuracy(found), accuracy(learned), weight(found), weight(learned), accuracy(fixed)]
        lines.append([attack, *cells, verdict(found, learned)])
    header = ["attack", "node", "simulation", "node: weight", "simulation: weight", "simulation, fixed", "the same?"]
    return table(header, lines)


def verdict(node: Row | None, simulated: Row | None) -> str:
    """Whether the two outcomes agree, or by how much they don't."""
    if node is None or simulated is None:
        return NOT_RUN
    accuracy = 100 * (node["common_accuracy"] - simulated["common_accuracy"])
    weight = 100 * (node["attacker_weight"] - simulated["attacker_weight"])
    if abs(accuracy) <= AGREE and abs(weight) <= AGREE_WEIGHT:
        return "yes"
    return f"**no** ({accuracy:+.2f} accuracy, {weight:+.2f} weight)"


def accuracy(row: Row | None) -> str:
    return NOT_RUN if row is None else f"{100 * row['common_accuracy']:.2f} ± {100 * row['std_over_members']:.2f}"


def weight(row: Row | None) -> str:
    return NOT_RUN if row is None else f"{100 * row['attacker_weight']:.2f}"
