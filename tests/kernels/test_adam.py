"""The AdamW step of flat vectors: the definition, torch's fused step and our C++, and what they refuse."""

from __future__ import annotations

import re

import pytest
import torch

from foldase_kernels.adam import adamw_, available_backends, square_sum

SIZES = (0, 1, 7, 8, 63, 65, 100_003)
FLOAT32_TOLERANCE = 3e-7
"""Of a weight after one step, relative to 1 or the weight: a few roundings of float32."""
RATE, BETAS, EPSILON, WEIGHT_DECAY = 3e-3, (0.9, 0.99), 1e-8, 0.1


def draw(count: int, *, gradient_dtype=torch.float32, average=False, seed=0) -> dict[str, torch.Tensor]:
    """Vectors in the middle of a training."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(count, generator=generator)

    vectors = {"weights": normal(), "exp_avg": 0.1 * normal(), "exp_avg_sq": 0.1 * normal().square()}
    vectors["gradient"] = normal().to(gradient_dtype)
    if average:
        vectors["average"] = normal()
    return vectors


def stepped(vectors, *, step=3, backend, low=False, **options):
    """Copies of the vectors after a step, with the rounded weights as ``out`` where asked for."""
    made = {name: vector.clone() for name, vector in vectors.items()}
    if low:
        made["out"] = torch.empty(made["weights"].shape, dtype=torch.bfloat16)
    if "average" in made:
        options["average_decay"] = 0.97
    settings = {"rate": RATE, "betas": BETAS, "epsilon": EPSILON, "weight_decay": WEIGHT_DECAY} | options
    adamw_(**made, step=step, backend=backend, **settings)
    return made


def exact(vectors, **options):
    """The same step in float64."""
    wide = {name: vector.double() for name, vector in vectors.items()}
    return stepped(wide, backend="reference", **options)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    error = (found.double() - expected).abs() / expected.abs().clamp(min=1.0)
    assert not error.numel() or float(error.max()) <= tolerance


def test_the_definition_is_torchs_adamw():
    vectors = draw(50)
    weights = torch.nn.Parameter(vectors["weights"].double())
    optimizer = torch.optim.AdamW([weights], RATE, BETAS, EPSILON, WEIGHT_DECAY, fused=True)
    ours = {name: vector.double() for name, vector in vectors.items()}
    ours |= {name: torch.zeros(50, dtype=torch.float64) for name in ("exp_avg", "exp_avg_sq")}
    for step in range(1, 6):
        weights.grad = ours["gradient"] * 0.5
        optimizer.step()
        ours = stepped(ours, step=step, scale=0.5, backend="reference")
    torch.testing.assert_close(ours["weights"], weights.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", [name for name in available_backends() if name != "reference"])
@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_that_of_the_definition(backend, gradient_dtype):
    for count in SIZES:
        vectors = draw(count, gradient_dtype=gradient_dtype, average=True)
        found = stepped(vectors, backend=backend, scale=0.3, low=True)
        expected = exact(vectors, scale=0.3)
        for name in ("weights", "exp_avg", "exp_avg_sq", "average"):
            assert_close(found[name], expected[name], FLOAT32_TOLERANCE)
        assert torch.equal(found["out"], found["weights"].bfloat16())
        if gradient_dtype == torch.bfloat16:
            assert torch.equal(found["gradient"], vectors["gradient"])


def test_long_vectors_are_stepped_in_parts(monkeypatch):
    vectors = draw(1000, gradient_dtype=torch.bfloat16, average=True)
    whole = stepped(vectors, backend="torch", scale=0.5, low=True)
    monkeypatch.setattr("foldase_kernels.adam.torch_fused.ELEMENTS_AT_ONCE", {"cpu": 128})
    in_parts = stepped(vectors, backend="torch", scale=0.5, low=True)
    for name, vector in whole.items():
        torch.testing.assert_close(vector, in_parts[name], rtol=FLOAT32_TOLERANCE, atol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize("backend", available_backends())
def test_squares_are_summed_in_float64(backend):
    vector = torch.randn(100_003, generator=torch.Generator().manual_seed(1))
    for low in (vector, vector.bfloat16(), vector[:0], vector[1:8]):
        exact_sum = float(low.double().square().sum())
        assert square_sum(low, backend=backend) == pytest.approx(exact_sum, rel=1e-14)
    vector[5] = float("nan")
    assert square_sum(vector, backend=backend) != square_sum(vector, backend=backend)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 0}, "step is 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"average_decay": 0.9}, "go together"),
        ({"backend": "cuda"}, "backend 'cuda' is not available"),
        ({"weights": torch.zeros(5, dtype=torch.bfloat16)}, "weights are torch.bfloat16"),
        ({"exp_avg": torch.zeros(6)}, "exp_avg has 6 elements, weights have 5"),
        ({"exp_avg_sq": torch.zeros(10)[::2]}, "exp_avg_sq has shape (5,) and strides (2,)"),
        ({"gradient": torch.zeros(5, dtype=torch.float16)}, "gradient is torch.float16"),
        ({"out": torch.zeros(5)}, "out is torch.float32"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_makes_no_step_is_refused_by_name(change, words):
    arguments = draw(5) | {"step": 1, "rate": RATE, "betas": BETAS, "epsilon": EPSILON, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=re.escape(words)):
        adamw_(**arguments | change)


def test_vectors_that_share_memory_are_refused():
    memory = torch.zeros(8)
    vectors = draw(5) | {"exp_avg": memory[:5], "exp_avg_sq": memory[3:]}
    with pytest.raises(ValueError, match="exp_avg and exp_avg_sq share memory"):
        stepped_in_place(vectors)


def stepped_in_place(vectors):
    adamw_(**vectors, step=1, rate=RATE, betas=BETAS, epsilon=EPSILON, weight_decay=0.0, backend="torch")


@pytest.mark.parametrize("backend", available_backends())
def test_new_weights_may_take_the_place_of_the_gradient(backend):
    vectors = draw(65, gradient_dtype=torch.bfloat16)
    apart = stepped(vectors, backend=backend, low=True)
    together = {name: vector.clone() for name, vector in vectors.items()}
    settings = {"rate": RATE, "betas": BETAS, "epsilon": EPSILON, "weight_decay": WEIGHT_DECAY}
    adamw_(**together, step=3, out=together["gradient"], backend=backend, **settings)
    assert torch.equal(together["gradient"], apart["out"])
    assert torch.equal(together["weights"], apart["weights"])
