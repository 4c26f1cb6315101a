"""Stacked training against an ordinary loop, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looped import fit_loop
from torch import nn

from datalab import models
from datalab.errors import UserError
from datalab.stack import Stack
from datalab.training import Recipe, batch_order, chunk_size, cosine, fit_many, initialise

GRIDS = [(1, 1, 17), (1, 8, 8), (4, 3, 3), (2, 5, 7)]


def problem(grid, size, n=200, classes=5):
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.standard_normal((n, int(np.prod(grid)))))
    kept = rng.random((size, n)) < 0.6
    return x, rng.integers(0, classes, (size, n)), kept, [i % 3 for i in range(size)]


@pytest.mark.parametrize("architecture", ["softmax", "mlp"])
def test_a_stack_of_64_models_gets_the_weights_of_a_loop(architecture):
    x, labels, kept, seeds = problem((1, 1, 64), size=64, n=500)
    module, recipe = models.build(architecture, (1, 1, 64), 5), Recipe(steps=50)
    stack = fit_many(module, x, labels, kept, seeds, recipe)
    for s, model in enumerate(fit_loop(module, x, labels, kept, seeds, recipe)):
        for name, parameter in model.named_parameters():
            assert (parameter - stack.parameters[name][s]).abs().max() < 1e-10


@pytest.mark.parametrize("architecture", list(models.ALL))
@pytest.mark.parametrize("grid", GRIDS)
def test_every_architecture_on_every_grid_trains_as_its_loop_does(architecture, grid):
    x, labels, kept, seeds = problem(grid, size=3)
    module, recipe = models.build(architecture, grid, 5, hidden=16), Recipe(steps=8, batch_size=32)
    stack = fit_many(module, x, labels, kept, seeds, recipe)
    for s, model in enumerate(fit_loop(module, x, labels, kept, seeds, recipe)):
        for name, parameter in model.named_parameters():
            assert (parameter - stack.parameters[name][s]).abs().max() < 1e-10
        torch.testing.assert_close(stack(x)[s], model(x))
        torch.testing.assert_close(stack.model(s)(x), model(x))


def test_a_stack_predicts_in_blocks_what_it_predicts_whole():
    x, labels, kept, seeds = problem((1, 8, 8), size=4)
    stack = fit_many(models.build("cnn", (1, 8, 8), 5), x, labels, kept, seeds, Recipe(steps=5))
    assert torch.equal(stack.predict(x, rows=37), stack(x).argmax(-1))


def test_the_last_layer_applied_to_the_features_gives_the_logits():
    x, labels, kept, seeds = problem((1, 1, 17), size=4)
    stack = fit_many(models.build("mlp", (1, 1, 17), 5), x, labels, kept, seeds, Recipe(steps=5))
    features = stack.features(x)
    assert features.shape == (4, 200, 64)
    for s in range(4):
        torch.testing.assert_close(stack.model(s)[-1](features[s]), stack(x)[s])


def test_a_model_does_not_depend_on_what_it_is_stacked_with():
    x, labels, kept, seeds = problem((1, 1, 17), size=9)
    module, recipe = models.build("mlp", (1, 1, 17), 5), Recipe(steps=30)
    whole = fit_many(module, x, labels, kept, seeds, recipe)
    part = fit_many(module, x, labels[6:], kept[6:], seeds[6:], recipe)
    torch.testing.assert_close(whole(x)[6:], part(x), rtol=0, atol=1e-10)


def test_equal_seeds_start_alike_in_both_precisions_and_different_seeds_do_not():
    module = models.build("mlp", (1, 1, 17), 5)
    double, single = Stack(module, 3, torch.float64), Stack(module, 2, torch.float32)
    initialise(double, [7, 8, 7])
    initialise(single, [8, 7])
    for name, values in double.parameters.items():
        assert torch.equal(values[0], values[2])
        assert not torch.equal(values[0], values[1])
        assert torch.equal(values[0].float(), single.parameters[name][1])
        assert values.abs().max() <= 1 / np.sqrt(17 if name.startswith("0") else 64)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_a_batch_order_visits_kept_examples_only_and_each_once_an_epoch(seed, keep, length):
    rng = np.random.default_rng(seed)
    kept = np.zeros((2, 60), dtype=bool)
    kept[0, rng.choice(60, keep, replace=False)] = True
    kept[1] = True
    order = batch_order(kept, [seed, seed], length)
    assert kept[0, order[0]].all()
    for start in range(0, length - keep + 1, keep):
        assert len(set(order[0, start : start + keep])) == keep


def test_a_pair_of_one_seed_sees_its_common_examples_in_the_same_order():
    rng = np.random.default_rng(0)
    kept = rng.random((2, 100)) < 0.7
    first, second = batch_order(kept, [3, 3], 200)
    # Both skip through one stream: within the first epoch their common examples come in one order.
    common = kept.all(0)
    first, second = first[: kept[0].sum()], second[: kept[1].sum()]
    assert list(first[common[first]]) == list(second[common[second]])


def test_a_model_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        batch_order(np.zeros((1, 5), dtype=bool), [0], 3)


def test_the_learning_rate_falls_from_its_start_to_nearly_zero():
    rates = [cosine(0.003, step, 200) for step in range(200)]
    assert rates[0] == 0.003
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-6


def test_a_layer_that_cannot_be_batched_is_named():
    with pytest.raises(TypeError, match="BatchNorm1d"):
        Stack(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), 2)
    with pytest.raises(TypeError, match="stride equals their kernel"):
        Stack(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)), 2)
    with pytest.raises(TypeError, match="last layer is Linear"):
        Stack(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 2)


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'softmax'"):
        models.build("softmx", (1, 1, 3), 2)


def test_a_chunk_shrinks_as_models_grow_and_never_vanishes():
    small = chunk_size(models.build("mlp", (1, 1, 10), 2), Recipe(), 10)
    large = chunk_size(models.build("mlp", (1, 1, 5000), 2), Recipe(), 5000)
    assert small > large >= 8


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_stack_trains_on_a_gpu_as_on_the_cpu():
    x, labels, kept, seeds = problem((1, 8, 8), size=4)
    module, recipe = models.build("cnn", (1, 8, 8), 5), Recipe(steps=20)
    cpu, gpu = fit_many(module, x, labels, kept, seeds, recipe), fit_many(module, x.cuda(), labels, kept, seeds, recipe)
    torch.testing.assert_close(cpu(x), gpu(x.cuda()).cpu(), rtol=1e-8, atol=1e-8)
