"""How virtual members weigh and mix: fixed, learned, or by a rule from the literature; many members at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from node.learning import baselines
from node.learning.many import Pool, chunks
from node.learning.mapped import Mapped, mapped
from node.learning.mixing import mix_many, quantise
from node.learning.pure import mappable_loss
from node.learning.screen import sketches_of
from node.learning.task import Learner
from node.learning.trust import Inputs, TrustSettings, TrustState
from node.learning.weigher import Seat, Weigher
from node.simulation.settings import SimulationSettings

Peers = Mapping[int, tuple[int, ...]]  # member -> whom it mixes, itself among them, ascending
JUDGED = 512  # validation examples that FedFomo looks at


@dataclass(frozen=True, slots=True)
class Mixture:
    """Parameters (members, size) after mixing, and the rows that were used; empty for rules without one."""

    flats: Tensor
    rows: tuple[Mapping[int, int], ...]


class Mixer:
    """Mixes everybody's cohort by one way of sharing. Of who attacks, robust rules alone are told: how many."""

    def __init__(
        self,
        learner: Learner,
        settings: SimulationSettings,
        validation: Pool,
        examples: Sequence[int],
        attackers: frozenset[int] = frozenset(),
    ) -> None:
        self.learner, self.settings, self.validation, self.attackers = learner, settings, validation, attackers
        self.examples = torch.tensor(examples, dtype=torch.float64)
        wishes = TrustSettings(settings.objective, settings.prior_strength)
        self.weigher = Weigher(learner, validation, baselines.L2C if settings.sharing == "l2c" else wishes)
        self.states = [TrustState.fresh() for _ in range(settings.members)]
        self._losses = mapped(mappable_loss(learner), (0, None, None), learner.plain)

    def __call__(
        self, round: int, peers: Peers, before: Tensor, updates: Tensor, generators: Sequence[torch.Generator]
    ) -> Mixture:
        """Everybody's mixture; `before` (members, size) are the parameters before training, `updates` those sent."""
        sharing = self.settings.sharing
        if sharing in baselines.BASELINES:
            return Mixture(self._by_rule(baselines.BASELINES[sharing], peers, updates), tuple({} for _ in peers))
        if sharing in ("learned", "l2c"):
            rows = self._learned(round, peers, before, updates, generators)
        else:
            rows = [self._row(member, chosen, peers, before, updates) for member, chosen in peers.items()]
        weights = [quantise(row) for row in rows]
        flats = mix_many(updates, list(peers.values()), weights)
        return Mixture(
            flats, tuple(dict(zip(c, w.tolist(), strict=True)) for c, w in zip(peers.values(), weights, strict=True))
        )

    def _row(self, member: int, chosen: tuple[int, ...], peers: Peers, before: Tensor, updates: Tensor) -> list[float]:
        own, index = chosen.index(member), list(chosen)
        match self.settings.sharing:
            case "data_size":
                row = baselines.data_size_row(self.examples[index])
            case "metropolis":
                degrees = [len(peers.get(peer, chosen)) - 1 for peer in chosen]
                row = baselines.metropolis_row(own, torch.tensor(degrees, dtype=torch.float64))
            case "fedfomo":
                row = self._fedfomo(member, own, updates[index], before[member])
            case _:  # fixed, or nobody but ourselves
                row = torch.ones(len(chosen), dtype=torch.float64)
        result: list[float] = row.tolist()
        return result

    def _fedfomo(self, member: int, own: int, stacked: Tensor, before: Tensor) -> Tensor:
        start = self.validation.starts[member]
        positions = torch.arange(start, start + min(JUDGED, self.validation.sizes[member]))
        seen = self.validation.rows(positions)
        losses = self._losses(torch.cat([stacked, before[None]]), seen.inputs, seen.targets).double()
        distances = torch.linalg.vector_norm(stacked - before, dim=1).double()
        return baselines.fedfomo_row(own, losses[-1] - losses[:-1], distances)

    def _learned(
        self, round: int, peers: Peers, before: Tensor, updates: Tensor, generators: Sequence[torch.Generator]
    ) -> list[list[float]]:
        everybody = tuple(range(len(updates)))
        steps = torch.linalg.vector_norm(updates - before, dim=1).tolist()
        sketches = sketches_of(updates)
        seats = []
        for member, chosen in peers.items():
            index = list(chosen)
            stacked = updates if chosen == everybody else updates[index]
            own, rounds = chosen.index(member), (round,) * len(chosen)
            inputs = Inputs(chosen, rounds, own, stacked, steps[member], sketches[index])
            seats.append(Seat(self.states[member], inputs, member, generators[member]))
        rows = []
        for member, (state, row) in zip(peers, self.weigher.learn_rows(seats), strict=True):
            self.states[member] = state
            rows.append(row.tolist())
        return rows

    def _by_rule(self, rule: baselines.Rule, peers: Peers, updates: Tensor) -> Tensor:
        members = list(peers)
        kinds = [(len(chosen), len(self.attackers.intersection(chosen))) for chosen in peers.values()]
        mixed = torch.empty(len(members), updates.shape[1])
        for (count, faulty), alike in groupby(sorted(range(len(members)), key=kinds.__getitem__), kinds.__getitem__):
            together = mapped(_told(rule, faulty))
            for part in chunks(list(alike), 64):
                own = updates[[members[i] for i in part]]
                if count == 1:
                    mixed[part] = own
                    continue
                others = [[peer for peer in peers[members[i]] if peer != members[i]] for i in part]
                mixed[part] = together(own, updates[torch.tensor(others)])
        return mixed


def _told(rule: baselines.Rule, faulty: int) -> Mapped:
    """The rule, told how many of the others are bad."""
    return lambda own, others: rule(own, others, faulty)
