"""Which modules are fetched together, and the guess of what comes next."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from foldase_models.training.zero.trace import Trace
from foldase_models.training.zero.units import ROOT, as_unit, find_units


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 2)
        self.blocks = nn.ModuleList([Pair(), Pair()])
        self.head = nn.Linear(2, 5)


def names(model, **how):
    return {unit.name: sorted(unit.parameters) for unit in find_units(model, **how)}


def pair(path):
    return [f"{path}.{part}.{kind}" for part in ("first", "second") for kind in ("bias", "weight")]


def test_elements_of_lists_are_units_and_the_rest_is_the_roots():
    assert names(Model()) == {
        "blocks.0": pair("blocks.0"),
        "blocks.1": pair("blocks.1"),
        ROOT: ["embed.weight", "head.bias", "head.weight"],
    }


def test_blocks_of_one_kind_in_a_sequence_are_units_but_single_layers_are_not():
    assert set(names(nn.Sequential(Pair(), nn.ReLU(), Pair()))) == {"0", "2", ROOT}
    assert set(names(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))) == {ROOT}


def test_lists_in_lists_are_looked_into_as_they_are_never_called():
    model = nn.ModuleList([nn.ModuleList([Pair(), Pair()]), Pair()])
    assert set(names(model)) == {"0.0", "0.1", "1", ROOT}


def test_a_marked_module_is_one_unit_with_the_lists_inside_it():
    model = nn.Module()
    model.experts = as_unit(Model())
    model.large = as_unit(nn.Linear(3, 3))
    found = names(model)
    assert set(found) == {"experts", "large", ROOT}
    assert "experts.blocks.1.second.bias" in found["experts"]


def test_a_marked_module_inside_a_block_is_a_unit_of_its_own():
    model = Model()
    as_unit(model.blocks[0].first)
    found = names(model)
    assert found["blocks.0.first"] == ["blocks.0.first.bias", "blocks.0.first.weight"]
    assert found["blocks.0"] == ["blocks.0.second.bias", "blocks.0.second.weight"]


def test_what_units_share_is_the_roots_with_all_its_places():
    model = Model()
    model.blocks[1].first.weight = model.blocks[0].first.weight
    found = find_units(model)
    assert "blocks.0.first.weight" in found[-1].parameters
    assert all("blocks.0.first.weight" not in unit.parameters for unit in found[:-1])
    tied = next(holding for holding in found[-1].holdings if holding.name == "blocks.0.first.weight")
    assert [module for module, _ in tied.places] == [model.blocks[0].first, model.blocks[1].first]


def test_a_module_in_two_units_is_the_roots():
    model = Model()
    model.blocks[1].first = model.blocks[0].first
    found = names(model)
    assert {"blocks.0.first.weight", "blocks.0.first.bias"} <= set(found[ROOT])
    assert found["blocks.1"] == ["blocks.1.second.bias", "blocks.1.second.weight"]


def test_units_that_share_can_dissolve_into_the_root():
    model = Model()
    model.blocks[1].first.weight = model.embed.weight
    assert set(names(model, dissolve_shared=True)) == {"blocks.0", ROOT}


def test_parameters_without_elements_and_blocks_without_parameters_are_left_out():
    model = Model()
    model.nothing = nn.Parameter(torch.zeros(0, 3))
    model.blocks.append(nn.ReLU())
    found = names(model)
    assert set(found) == {"blocks.0", "blocks.1", ROOT}
    assert "nothing" not in found[ROOT]


@given(st.lists(st.integers(0, 4), max_size=12))
def test_a_pass_like_the_one_before_is_guessed_to_its_end(order):
    trace = Trace()
    for unit in order:
        trace.visit(unit)
    trace.begin()
    for at, unit in enumerate(order):
        assert trace.ahead(2) == order[at : at + 2]
        trace.visit(unit)


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=5))
def test_guesses_are_units_of_the_pass_before_whatever_comes(passes):
    trace, before = Trace(), set()
    for order in passes:
        trace.begin()
        for unit in order:
            trace.visit(unit)
            assert set(trace.ahead(3)) <= before
        before = set(order) or before


def test_one_more_recycle_than_before_is_waited_out():
    trace = Trace()
    for unit in (0, 1, 0, 1, 2):
        trace.visit(unit)
    trace.begin()
    for unit in (0, 1, 0, 1, 0, 1):
        trace.visit(unit)
    assert trace.ahead(1) == [2]
    trace.visit(2)
    assert trace.ahead(1) == []
