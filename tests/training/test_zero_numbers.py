"""What stages 0 to 2 hold and send, in bytes, beside the formulas of Rajbhandari et al. 2020."""

from __future__ import annotations

import gc
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from training_ranks import SAME_WORKER, run_ranks

from foldase_models.training import LimitsConfig, Trainer, TrainingConfig

pytestmark = SAME_WORKER

TOLERANCE = 0.01
SMALL_PARAMETERS, LARGE_PARAMETERS = 300_000, 5_000_000
ALIGNMENT = 64
"""Bytes that every rank's slice of a bucket begins at a multiple of."""
STATE_OWNERS = ("weights", "float32 weights", "gradients", "optimizer")
BUCKET_BYTES = 2**18

ROUNDS = 3
CASES = list(itertools.product((0, 1, 2), ("float32", "bfloat16"), (1, ROUNDS)))
"""Stage, precision, and how often a rank runs backward in a step."""
SHORT = [(1, "float32", 1), (1, "bfloat16", ROUNDS), (2, "float32", ROUNDS), (2, "bfloat16", 1)]


@dataclass(frozen=True)
class Measured:
    """What one rank saw.

    Attributes:
        size: number of ranks.
        parameters: of the model.
        held: bytes that the ledger knows, by owner.
        alive: bytes of all tensors that python knows.
        sent, told: bytes of the second step, as torch was asked for them and as the trainer reports them.
        buckets: how many there are.
        largest: bytes of the largest.
    """

    size: int
    parameters: int
    held: dict[str, int]
    alive: int
    sent: float
    told: float
    buckets: int
    largest: int

    @property
    def state(self):
        return sum(self.held.get(owner, 0) for owner in STATE_OWNERS)

    @property
    def padding(self):
        """At most: vectors of a bucket, in slices that each end at a multiple of the alignment."""
        return 5 * self.buckets * self.size * ALIGNMENT


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SMALL_PARAMETERS, 2), id="small-2"),
        pytest.param((LARGE_PARAMETERS, 2), id="large-2", marks=pytest.mark.verify),
        pytest.param((LARGE_PARAMETERS, 3), id="large-3", marks=pytest.mark.verify),
        pytest.param((LARGE_PARAMETERS, 4), id="large-4", marks=pytest.mark.verify),
    ],
)
def measured(request):
    parameters, size = request.param
    cases = SHORT if parameters == SMALL_PARAMETERS else CASES
    every = run_ranks(measure_all, size, parameters, cases, timeout=500)
    return {case: [results[case] for results in every] for case in cases}


class Sent(TorchDispatchMode):
    """Bytes that the ring algorithms send through this rank, seen where torch starts the operations."""

    factors = {"allreduce_": 2, "_reduce_scatter_base_": 1, "_allgather_base_": 1, "broadcast_": 1}

    def __init__(self, size):
        super().__init__()
        self.size, self.bytes = size, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            name = function._schema.name.removeprefix("c10d::")
            tensors = [
                value for value in args[:2] for value in (value if isinstance(value, list) else [value])
            ]
            largest = max(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
            self.bytes += self.factors.get(name, 1) * largest * (self.size - 1) / self.size
        return function(*args, **(kwargs or {}))


class Wide(nn.Module):
    """Matrices of uneven sizes, with at least so many parameters."""

    def __init__(self, parameters):
        super().__init__()
        width = int((parameters / 6) ** 0.5) + 7
        self.layers = nn.ModuleList([nn.Linear(width, width + 1), nn.Linear(width + 1, width)] * 1)
        self.layers.extend(nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def trainer_of(ranks, parameters, stage, precision, parts):
    torch.manual_seed(0)
    model = Wide(parameters)
    width = model.layers[0].in_features

    def loss(batch, step):
        return (model(batch) - batch).float().square().mean(), {}

    config = TrainingConfig(
        steps=2,
        stage=stage,
        precision=precision,
        micro_batches=parts,
        average_decay=0.0,
        limits=LimitsConfig(bucket_bytes=BUCKET_BYTES),
    )
    return model, Trainer(model, loss, lambda number: torch.randn(2, width), config, ranks=ranks)


def measure_all(ranks, parameters, cases):
    gc.collect()
    gc.freeze()  # what is here already is not looked through again and again
    return {case: measure(ranks, parameters, *case) for case in cases}


def measure(ranks, parameters, stage, precision, rounds):
    before = live_bytes(None)
    model, trainer = trainer_of(ranks, parameters, stage, precision, rounds * ranks.size)
    count = sum(parameter.numel() for parameter in model.parameters())
    told, marks = [], []
    with Sent(ranks.size) as sent:
        trainer.run(lambda report: (told.append(report.traffic), marks.append(sent.bytes)))
    buckets = trainer.engine.buckets
    result = Measured(
        size=ranks.size,
        parameters=count,
        held=trainer.ledger.held("device"),
        alive=live_bytes(model) - before,
        sent=marks[1] - marks[0],
        told=told[1],
        buckets=len(buckets),
        largest=max(bucket.bytes for bucket in buckets),
    )
    trainer.close()
    return result


def live_bytes(model):
    """Of all tensors that python knows, by memory: what the ledger says must not be all we believe."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    if model is not None:
        tensors += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def formula(stage, precision, rounds, one):
    """Bytes of model state a rank: reference, section 1.1; wider gradients where parts are added up."""
    weight, master = (4, 0) if precision == "float32" else (2, 4)
    gradient = 4 if precision == "float32" or rounds > 1 else 2
    gradients, optimizer = {0: (1, 1), 1: (1, one.size), 2: (one.size, one.size)}[stage]
    return one.parameters * (weight + gradient / gradients + (master + 8) / optimizer)


def check_share(found, wanted, padding=0):
    assert abs(found - wanted) <= TOLERANCE * wanted + padding, (found, wanted)


def test_a_rank_holds_what_the_formula_says(measured):
    for case, ranks in measured.items():
        for one in ranks:
            wanted = formula(*case, one)
            check_share(one.state, wanted, one.padding)
            travelling = one.held.get("gradient buckets", 0)
            assert travelling <= 2 * max(BUCKET_BYTES, one.largest)
            check_share(one.alive, one.state + travelling, one.padding)


def test_ranks_send_as_much_as_with_plain_data_parallelism(measured):
    for (_, precision, rounds), ranks in measured.items():
        for one in ranks:
            if rounds == 1:
                width = 4 if precision == "float32" else 2
                check_share(one.sent, 2 * width * one.parameters * (one.size - 1) / one.size)
                check_share(one.told, one.sent)


def test_accumulation_multiplies_what_is_reduced_at_stage_2_only(measured):
    for (stage, precision, rounds), ranks in measured.items():
        for one in ranks:
            if rounds > 1 and precision == "float32":
                passes = rounds + 1 if stage == 2 else 2
                check_share(one.sent, passes * 4 * one.parameters * (one.size - 1) / one.size)
                check_share(one.told, one.sent)


def test_wide_sums_of_bfloat16_gradients_are_reduced_as_they_are_kept(measured):
    """Stages 0 and 1 reduce float32 sums; stage 2 each pass in bfloat16, adding its slices up in float32."""
    for stage, bytes_of_a_parameter in ((0, 4 + 4), (1, 4 + 2), (2, 2 * ROUNDS + 2)):
        for one in measured.get((stage, "bfloat16", ROUNDS), []):
            check_share(one.sent, bytes_of_a_parameter * one.parameters * (one.size - 1) / one.size)
