"""What a rank holds of one bucket while it steps without the others, and how they agree again.

Between two exchanges, with the second moment v frozen, the steps of AdamW are linear in the momenta: of the
weights a at the last exchange, momenta m_t, rates r_t and shares l_t that decay takes,

    u_t = (1 - l_t) u_t-1 + r_t m_t        G_t = (1 - l_t) G_t-1 + r_t        P_t = (1 - l_t) P_t-1
    w_t = P_t a - u_t / (sqrt(v) + epsilon)

so that the mean of the ranks' weights comes of the mean of their u, and the mean momentum is about
mean(u) / G (Lu et al. 2022, arXiv:2202.06009, algorithm 1, with the momentum after the gradient was taken in,
and with weight decay, which the paper has not).

What ranks send is u / (sqrt(v) + epsilon), the change of the weights, where the paper has u. Exact means
would be the same. With one scale for a block of signs they are not: momenta of one block are of many
magnitudes, and a coordinate with a small second moment would be moved by the mean of the large ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from foldase_models.training.ledger import Ledger
from foldase_models.training.optim.adamw import Vectors
from foldase_models.training.optim.moments import Denominator, move, parts

PENDING, ANCHOR = "pending updates", "weights at the last exchange"
"""Owners in the ledger."""
ALL = slice(None)


@dataclass(slots=True)
class Span:
    """The steps since the last exchange, of all buckets that decay alike.

    Attributes:
        shrink: what weight decay left of the weights, P.
        rates: the sum of rates, G.
        rate: the last of them.
    """

    shrink: float = 1.0
    rates: float = 0.0
    rate: float = 0.0

    def add(self, rate: float, decay: float) -> None:
        """One step, of which weight decay takes a share."""
        self.shrink *= 1.0 - decay
        self.rates = (1.0 - decay) * self.rates + rate
        self.rate = rate


class Alone:
    """One bucket.

    Attributes:
        vectors: weights, moments and average, [numel] each. The weights are those at the last exchange,
            unless the model's own are the same memory and this rank has moved on: then :attr:`anchor` is.
        anchor: the weights at the last exchange, [numel].
        pending: u, [numel]; None where no two steps come between exchanges.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self.anchor = vectors.weights
        self.pending: torch.Tensor | None = None

    def leave(self, model: torch.Tensor, ledger: Ledger) -> None:
        """Make ready for several steps between two exchanges.

        Args:
            model: the flat vector that the model computes with.
            ledger: for the vectors.
        """
        numel = model.numel()
        self.pending = ledger.zeros("device", PENDING, numel, torch.float32)
        if model.data_ptr() == self.vectors.weights.data_ptr():
            self.anchor = ledger.zeros("device", ANCHOR, numel, torch.float32)
            self.anchor.copy_(self.vectors.weights)

    @torch.no_grad()
    def add(self, rate: float, decay: float) -> None:
        """The momentum of this step to what is pending; nothing where every step ends in an exchange."""
        if self.pending is not None:
            self.pending.mul_(1.0 - decay).add_(self.vectors.exp_avg, alpha=rate)

    @torch.no_grad()
    def change(self, span: Span, by: Denominator) -> torch.Tensor:
        """How the steps since the last exchange change the weights, but for decay: a new vector, [numel]."""
        moments = self.vectors
        found = torch.empty_like(moments.exp_avg)
        for own in parts(found.numel()):
            sums = moments.exp_avg[own] * span.rate if self.pending is None else self.pending[own]
            torch.div(sums, by.of(moments.exp_avg_sq[own]), out=found[own])
        return found

    def show(self, model: torch.Tensor, span: Span, by: Denominator) -> None:
        """Write this rank's own weights into the model's vector, where that moves on alone."""
        assert self.pending is not None
        move(model, self.anchor, span.shrink, self.pending, 1.0, self.vectors.exp_avg_sq, by)

    @torch.no_grad()
    def agree(self, model: torch.Tensor, span: Span, by: Denominator) -> None:
        """Go on from the mean change, which lies in ``exp_avg`` by now, and from the momentum of that."""
        moments = self.vectors
        for own in parts(model.numel()):
            self.anchor[own].mul_(span.shrink).sub_(moments.exp_avg[own])
            moments.exp_avg[own].mul_(by.root(moments.exp_avg_sq[own])).div_(span.rates)
        if model.data_ptr() != self.anchor.data_ptr():
            model.copy_(self.anchor)
        if self.pending is not None:
            self.pending.zero_()

    def common(self, mean: torch.Tensor, span: Span, by: Denominator, own: slice = ALL) -> torch.Tensor:
        """The mean of the ranks' weights, all or some, a new vector, by that of what is pending [numel]."""
        found = torch.empty_like(mean[own])
        move(found, self.anchor[own], span.shrink, mean[own], 1.0, self.vectors.exp_avg_sq[own], by)
        return found

    def go_on(self) -> None:
        """The weights were read anew, and are common."""
        if self.anchor.data_ptr() != self.vectors.weights.data_ptr():
            self.anchor.copy_(self.vectors.weights)
