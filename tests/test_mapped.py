"""Stacks by vmap: each model's own labels, penalty and settings, as a loop would have them."""

import numpy as np
import pytest
import torch
from looped import fit_loop
from torch import nn

from datalab import models
from datalab.mapped import MappedStack
from datalab.stack import Stack
from datalab.training import Recipe, fit_many, make_stack

RECIPE = Recipe(steps=15, batch_size=16)


def problem(size: int = 3, n: int = 60):
    rng = np.random.default_rng(0)
    return torch.as_tensor(rng.standard_normal((n, 12))), rng.integers(0, 4, (size, n)), [5, 6, 5]


class Scaled(nn.Module):
    """A linear model trained on ``scale`` times its squared logits plus cross-entropy."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 4)

    def forward(self, x):
        return self.linear(x)

    def objective(self, x, labels, scale):
        logits = self(x)
        return nn.functional.cross_entropy(logits, labels) + scale * logits.square().mean()


def test_layers_written_by_hand_are_used_where_all_of_them_are_and_mapped_ones_elsewhere():
    assert isinstance(make_stack(models.build("cnn", (1, 8, 8), 3), 2), Stack)
    assert isinstance(make_stack(models.build("vit", (1, 8, 8), 3), 2), MappedStack)
    assert isinstance(make_stack(Scaled(), 2, settings={"scale": torch.ones(2)}), MappedStack)


def test_a_mapped_mlp_is_the_mlp_written_by_hand():
    x, labels, seeds = problem()
    module = models.build("mlp", (1, 1, 12), 4, 8)
    by_hand = fit_many(module, x, labels, None, seeds, RECIPE)
    wrapped = nn.Sequential(nn.Identity(), *module)  # a layer that no hand-written form has
    mapped = fit_many(wrapped, x, labels, None, seeds, RECIPE)
    assert isinstance(mapped, MappedStack)
    torch.testing.assert_close(mapped(x), by_hand(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mapped.features(x), by_hand.features(x), rtol=1e-9, atol=1e-12)
    assert torch.equal(mapped.predict(x, rows=7), by_hand.predict(x))


@pytest.mark.parametrize("architecture", ["mlp", "coatnet"])
def test_each_model_has_its_own_penalty(architecture):
    x, labels, seeds = problem()
    module, l2 = models.build(architecture, (1, 3, 4), 4, 8), [0.0, 0.01, 1.0]
    stack = fit_many(module, x, labels, None, seeds, RECIPE, l2=l2)
    for s, penalty in enumerate(l2):
        kept = np.ones((1, 60), dtype=bool)
        (alone,) = fit_loop(module, x, labels[s : s + 1], kept, seeds[s : s + 1], RECIPE._replace(l2=penalty))
        for name, value in alone.named_parameters():
            assert (value - stack.parameters[name][s]).abs().max() < 1e-10


def test_each_model_has_its_own_settings_of_its_objective():
    x, labels, seeds = problem()
    scale = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    stack = fit_many(Scaled(), x, labels, None, seeds, RECIPE, settings={"scale": scale})
    for s in range(3):
        one = {"scale": scale[s : s + 1]}
        alone = fit_many(Scaled(), x, labels[s : s + 1], None, seeds[s : s + 1], RECIPE, settings=one)
        torch.testing.assert_close(stack(x)[s], alone(x)[0], rtol=1e-10, atol=1e-12)
    assert stack(x)[2].abs().mean() < stack(x)[0].abs().mean()


def test_a_function_of_the_models_is_mapped_over_them():
    x, labels, seeds = problem()
    stack = fit_many(Scaled(), x, labels, None, seeds, RECIPE, settings={"scale": torch.ones(3, dtype=torch.float64)})
    shift = torch.arange(3.0, dtype=torch.float64)
    found = stack.map(lambda module, x, shift: module(x) + shift, x, shift)
    for s, model in enumerate(stack):
        torch.testing.assert_close(found[s], model(x) + s)


def test_the_template_is_not_touched():
    x, labels, seeds = problem()
    module = Scaled()
    before = module.linear.weight.clone()
    fit_many(module, x, labels, None, seeds, RECIPE, settings={"scale": torch.ones(3, dtype=torch.float64)})
    assert torch.equal(module.linear.weight, before)
    assert module.linear.weight.grad is None
