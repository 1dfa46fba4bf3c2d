"""Optimizer states in main memory and on a disk step like those beside the weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.training.clock import Clock
from foldase_models.training.collectives import Collectives
from foldase_models.training.config import (
    LimitsConfig,
    OffloadConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from foldase_models.training.ledger import Ledger
from foldase_models.training.offload import on_disk
from foldase_models.training.optim.steppers import make_stepper
from foldase_models.training.ranks import Ranks
from foldase_models.training.surroundings import Surroundings, Update
from foldase_models.training.zero.layout import lay_out

FLOAT_TOLERANCE = 1e-6
"""Absolute, of weights of order 1 after a few steps: torch's vectorised loop may end elsewhere."""
SMALLEST_BUCKETS = 4096
SHAPES = [(7, 3), (1,), (65, 33), (129,), (40, 64), (5000,)]


class Bench:
    """A stepper on its own: buckets, device weights that are published to, gradients by number."""

    def __init__(
        self,
        place,
        folder,
        *,
        dtype=torch.float32,
        delayed=False,
        ahead=False,
        device_buckets=0,
        streams=False,
        average=0.9,
        rank=0,
        size=1,
        parts=1,
    ):
        torch.manual_seed(3)
        parameters = {f"p{n}": nn.Parameter(torch.randn(shape).to(dtype)) for n, shape in enumerate(SHAPES)}
        offload = OffloadConfig(
            optimizer=place,
            parameters=place if streams else "none",
            folder=folder if place == "nvme" else None,
            delayed=delayed,
            ahead=ahead,
            device_buckets=device_buckets,
        )
        config = TrainingConfig(
            steps=10,
            micro_batches=parts,
            stage=3 if streams else 0,
            optimizer=OptimizerConfig(learning_rate=0.05, weight_decay=0.1),
            schedule=ScheduleConfig(warmup_steps=0),
            average_decay=average,
            offload=offload,
            limits=LimitsConfig(bucket_bytes=SMALLEST_BUCKETS),
        )
        self.ledger, self.clock = Ledger(torch.device("cpu")), Clock()
        around = Surroundings(config, Collectives(Ranks(), self.clock), self.ledger, self.clock)
        self.buckets = lay_out(parameters, size, SMALLEST_BUCKETS)
        self.weights = []
        for bucket in self.buckets:
            whole = torch.zeros(bucket.size, dtype=dtype)
            for entry in bucket.entries:
                whole[entry.start : entry.stop] = parameters[entry.name].detach().reshape(-1)
            self.weights.append(whole[bucket.slice_of(rank)].clone())
        self.publish = None if streams else self._publish
        self.stepper = make_stepper(self.buckets, rank, self.weights, around)

    def _publish(self, bucket, weights):
        self.weights[bucket].copy_(weights)

    def gradients(self, number):
        """Random, and zero in the padding."""
        torch.manual_seed(number)
        found = []
        for bucket in self.buckets:
            whole = torch.randn(bucket.size).to(bucket.dtype)
            whole[bucket.numel :] = 0
            found.append(whole[bucket.slice_of(self.stepper.rank)])
        return found

    def step(self, number, *, without=(), add=False, drop=False):
        for bucket, gradient in enumerate(self.gradients(number)):
            if bucket in without:
                continue
            if add and self.stepper.holds_gradient(bucket):
                self.stepper.take(bucket, gradient).wait()
                self.stepper.take(bucket, gradient, add=True).wait()
            else:
                self.stepper.take(bucket, gradient * 2 if add else gradient).wait()
        squares = self.stepper.square_sum()
        if drop:
            self.stepper.drop()
        else:
            self.stepper.step(Update(number, 0.05, 0.7, 0.9), self.publish)
        return squares

    def state(self):
        return {key: shard.read().clone() for key, shard in self.stepper.shards().items()}

    def fetched(self):
        found = [torch.empty(b.share, dtype=b.dtype) for b in self.buckets]
        under_way = [self.stepper.fetch(n, into) for n, into in enumerate(found)]
        for fetch in under_way:
            fetch.wait()
        return found

    def flushed(self):
        self.stepper.flush(self.publish)
        return self

    def close(self):
        self.stepper.close()


def assert_alike(found, wanted):
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=0, atol=FLOAT_TOLERANCE, msg=key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("disk")


@given(
    turns=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.sets(st.integers(0, 5), max_size=3)),
        min_size=1,
        max_size=4,
    ),
    place=st.sampled_from(["cpu", "nvme"]),
    average=st.sampled_from([0.0, 0.9]),
    size=st.integers(1, 3),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_steps_are_those_beside_the_weights(folder, turns, place, average, size):
    """Added up, dropped, and without gradients for some buckets, on any rank."""
    benches = [Bench(kind, folder, average=average, rank=size - 1, size=size) for kind in ("none", place)]
    for number, (add, drop, without) in enumerate(turns, start=1):
        squares = [bench.step(number, add=add, drop=drop, without=without) for bench in benches]
        assert squares[1] == pytest.approx(squares[0], rel=1e-6)
    assert_alike(benches[1].state(), benches[0].state())
    for published, wanted in zip(benches[1].weights, benches[0].weights, strict=True):
        torch.testing.assert_close(published, wanted, rtol=0, atol=FLOAT_TOLERANCE)
    for bench in benches:
        bench.close()


turns_ahead = st.tuples(
    st.booleans(),
    st.sampled_from([1.0, 0.7, None]),
    st.sets(st.integers(0, 3), max_size=2),
    st.sets(st.integers(0, 3), max_size=2),
    st.sets(st.integers(0, 3), max_size=2),
)
"""Whether the step is expected; its scale, None where it is dropped; without gradients; more, announced or
not; replaced."""


@given(
    turns=st.lists(turns_ahead, min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=10, deadline=None)
def test_whatever_comes_of_a_step_that_was_begun_the_state_is_that_of_one_that_waited(turns, dtype):
    benches = [Bench("cpu", None, dtype=dtype, ahead=ahead) for ahead in (False, True)]
    for number, (expected, scale, without, added, replaced) in enumerate(turns, start=1):
        squares = []
        for bench in benches:
            stepper, gradients = bench.stepper, bench.gradients(number)
            if expected:
                stepper.expect(Update(number, 0.05, 1.0, 0.9))
            for bucket in set(range(len(gradients))) - without:
                stepper.take(bucket, gradients[bucket], more=bucket in added and bucket % 2 == 0).wait()
            for bucket in sorted(added):
                stepper.take(bucket, gradients[bucket], add=True).wait()
            for bucket in sorted(replaced):
                stepper.take(bucket, 3 * gradients[bucket]).wait()
            squares.append(stepper.square_sum())
            if scale is None:
                stepper.drop()
            else:
                stepper.step(Update(number, 0.05, scale, 0.9), bench.publish)
        assert squares[0] == squares[1]
        for waited, begun in zip(*(bench.weights for bench in benches), strict=True):
            assert torch.equal(waited, begun)
    waited, begun = (bench.state() for bench in benches)
    assert all(torch.equal(begun[key], value) for key, value in waited.items())
    in_vain = sum(expected and scale != 1.0 for expected, scale, *_ in turns)
    assert benches[0].stepper.steps_taken_back == 0
    assert in_vain <= benches[1].stepper.steps_taken_back <= sum(expected for expected, *_ in turns)
    for bench in benches:
        bench.close()


@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_last_buckets_are_stepped_fetched_and_averaged_beside_the_others(folder, place, count):
    plain, split = (Bench(place, folder, device_buckets=number) for number in (0, count))
    for number, (add, drop) in enumerate([(True, False), (False, True), (False, False)], start=1):
        squares = [bench.step(number, add=add, drop=drop) for bench in (plain, split)]
        assert squares[1] == pytest.approx(squares[0], rel=1e-6)
    for bench in (plain, split):
        bench.stepper.exchange(bench.publish)
    assert_alike(split.state(), plain.state())
    for fetched, published, wanted in zip(split.fetched(), split.weights, plain.weights, strict=True):
        torch.testing.assert_close(published, wanted, rtol=0, atol=FLOAT_TOLERANCE)
        assert torch.equal(fetched, published)
    plain.close()
    split.close()


@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_bfloat16_weights_are_the_rounded_float32_ones(folder, place, streams, parts):
    plain = Bench("none", folder, dtype=torch.bfloat16)
    bench = Bench(place, folder, dtype=torch.bfloat16, streams=streams, parts=parts)
    for number in range(1, 4):
        for each in (plain, bench):
            each.step(number, add=parts > 1)
    assert_alike(bench.state(), plain.state())
    shown = bench.fetched() if streams else bench.weights
    state = bench.state()
    for bucket, found in zip(bench.buckets, shown, strict=True):
        for piece in bucket.pieces(0):
            part = found[piece.offset : piece.offset + piece.length]
            assert torch.equal(part, state[f"weights/{piece.name}"].bfloat16())
    bench.close()


@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delayed_step_shows_weights_one_step_old_and_all_of_them_when_flushed(
    folder, place, streams, dtype
):
    exact = Bench(place, folder, dtype=dtype, streams=streams)
    late = Bench(place, folder, dtype=dtype, streams=streams, delayed=True)
    seen = [exact.fetched()]
    for number in range(1, 4):
        exact.step(number)
        late.step(number)
        shown = late.fetched() if streams else late.weights
        for found, wanted in zip(shown, seen[-1], strict=True):
            assert torch.equal(found, wanted)
        seen.append([weights.clone() for weights in (exact.fetched() if streams else exact.weights)])
    late.flushed()
    for found, wanted in zip(late.fetched() if streams else late.weights, seen[-1], strict=True):
        assert torch.equal(found, wanted)
    for key, value in late.state().items():
        assert torch.equal(value, exact.state()[key])
    exact.close()
    late.close()


@pytest.mark.parametrize("place", ["cpu", "nvme"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("streams", [False, True])
def test_state_that_is_written_is_what_is_read_fetched_and_stepped(folder, place, dtype, streams):
    first = Bench(place, folder, dtype=dtype, streams=streams, delayed=True)
    for number in range(1, 3):
        first.step(number)
    kept = first.flushed().state()
    second = Bench(place, folder, dtype=dtype, streams=streams, delayed=True)
    for key, shard in second.stepper.shards().items():
        shard.write(kept[key])
    assert_alike(second.state(), kept)
    for found, wanted in zip(second.fetched(), first.fetched(), strict=True):
        assert torch.equal(found, wanted)
    for bench in (first, second):
        bench.step(3)
        bench.flushed()
    assert_alike(second.state(), first.state())
    first.close()
    second.close()


@pytest.mark.parametrize("place", ["none", "cpu", "nvme"])
def test_exchanging_twice_changes_nothing_and_once_publishes_the_average(folder, place):
    bench = Bench(place, folder)
    bench.step(1)
    before = bench.state()
    bench.stepper.exchange(bench.publish)
    average = bench.state()
    for bucket, published in zip(bench.buckets, bench.weights, strict=True):
        for piece in bucket.pieces(0):
            part = published[piece.offset : piece.offset + piece.length]
            assert torch.equal(part, before[f"average/{piece.name}"])
            assert torch.equal(part, average[f"weights/{piece.name}"])
    bench.stepper.exchange(bench.publish)
    assert_alike(bench.state(), before)
    bench.close()


def test_bytes_are_where_they_are_said_to_be(folder):
    """4 bytes of the state a parameter on the disk, and buffers that do not grow with the model."""
    bench = Bench("nvme", folder, average=0.0)
    parameters = sum(bucket.share for bucket in bench.buckets)
    held = bench.ledger.tiers()
    assert held["device"] == held["host"] == 0
    # Every vector of a group is padded to a block.
    assert 16 * parameters <= held["disk"] <= 16 * parameters + len(bench.stepper.groups) * 4 * 4096
    largest = max(bucket.share for bucket in bench.buckets) * 4
    assert held["pinned"] <= 3 * 4 * 4096 + 5 * 4096 + largest + 4096
    bench.close()
    assert not any(bench.ledger.tiers().values())


def test_the_clock_knows_disk_and_optimizer(folder):
    bench = Bench("nvme", folder)
    bench.step(1)
    times = bench.clock.take()
    assert times["disk_seconds"] > 0
    assert times["optimizer_seconds"] > 0
    assert times["exposed_disk_seconds"] > 0
    bench.close()


def test_a_disk_too_slow_for_the_others_patience_is_refused(folder, monkeypatch):
    plain = on_disk.probe

    def slow(*given, **named):
        found = plain(*given, **named)
        return type(found)(found.folder, 1.0, 1.0, 1.0, found.free_bytes, found.alignment, ())

    monkeypatch.setattr(on_disk, "probe", slow)
    with pytest.raises(ModelError, match="a step, which moves") as caught:
        Bench("nvme", folder)
    assert (caught.value.code, caught.value.location) == ("bad_disk", "offload.folder")
