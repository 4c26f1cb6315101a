"""The architectures: what they are built of, that they can learn, and that the influence code takes all of them."""

import contextlib

import numpy as np
import pytest
import torch
from fetched import fetched
from torch import nn
from torch.nn.functional import cross_entropy

from datalab import data, models
from datalab.influence import EKFAC, GradDot, LastLayerGGN
from datalab.influence.estimator import quiet
from datalab.mapped import MappedStack
from datalab.stack import Stack
from datalab.training import Recipe, fit_many

GRIDS = [(1, 1, 5), (1, 1, 30), (1, 1, 53), (1, 1, 180), (1, 10, 10), (4, 3, 3), (1, 5, 7)]
CAPS = {"train": 32, "validation": 20, "test": 20}
# One data set of each modality: an image, a table, a signal, a text. The last two have to be downloaded once.
MODALITIES = {"digits": (), "wine": (), "penbased": ("penbased",), "rotten-tomatoes": ("rotten-tomatoes",)}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.Dropout)


def build(architecture: str, grid: tuple[int, int, int], hidden: int = 16) -> nn.Sequential:
    return models.build(architecture, grid, 3, hidden)


def test_there_are_eight_architectures_of_three_families_and_two_references():
    assert len(models.ARCHITECTURES) == 8
    assert set(models.FAMILIES) == {"CNN-based", "transformer-based", "hybrid"}
    assert {models.family(name) for name in models.REFERENCES} == {"reference"}
    assert all(models.family(name) in models.FAMILIES for name in models.ARCHITECTURES)


@pytest.mark.parametrize("architecture", models.ALL)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_model_maps_flat_features_of_any_grid_to_logits_example_by_example(architecture, grid):
    torch.manual_seed(0)
    module, x = build(architecture, grid).double(), torch.randn(6, int(np.prod(grid)), dtype=torch.float64)
    logits = module(x)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(module(x[2:3]), logits[2:3])
    assert not any(isinstance(layer, NORMS) for layer in module.modules())


@pytest.mark.parametrize("architecture", [name for name in models.ALL if name != "softmax"])
def test_hidden_sizes_an_architecture(architecture):
    sizes = [sum(p.numel() for p in build(architecture, (1, 8, 8), hidden).parameters()) for hidden in (16, 64, 128)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
@pytest.mark.parametrize("name", MODALITIES)
def test_every_architecture_overfits_32_examples_of_every_modality(architecture, name):
    fetched(*MODALITIES[name])
    p = data.prepare(name, 0, 7, CAPS, "fast")
    module = models.build(architecture, p.grid, p.n_classes)
    x, y = torch.as_tensor(p.x_train), torch.as_tensor(p.y_train)
    assert len(y) == 32
    fitted = []

    def look(step: int, stack: Stack | MappedStack) -> None:
        """End the training once it knows them all by heart."""
        if step % 25 == 0 and bool((stack.predict(x)[0] == y).all()):
            fitted.append(step)
            raise StopIteration

    steps = 3000 if architecture == "cnn" else 400  # the patch CNN has few filters and is cheap: it takes more
    with contextlib.suppress(StopIteration):
        fit_many(module, x, p.y_train, None, [1], Recipe(steps=steps, batch_size=16, l2=0.0), on_step=look)
    assert fitted


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
@pytest.mark.parametrize("grid", [(1, 1, 17), (1, 8, 8), (4, 3, 3)])
def test_the_influence_code_takes_every_layer_of_every_architecture(architecture, grid):
    torch.manual_seed(0)
    module, x = build(architecture, grid).double(), torch.randn(7, int(np.prod(grid)), dtype=torch.float64)
    y = torch.arange(7) % 3
    squared = []
    for i in range(len(x)):
        gradients = torch.autograd.grad(cross_entropy(module(x[i : i + 1]), y[i : i + 1]), list(module.parameters()))
        squared.append(sum(float(g.square().sum()) for g in gradients))
    with quiet():
        found = GradDot(module).fit(x, y).self_influence(x, y)
        scores = EKFAC(module, 0.1).fit(x, y).self_influence(x, y)
    np.testing.assert_allclose(found, squared, rtol=1e-9)
    assert bool((scores > 0).all())


@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_the_last_layer_of_a_mapped_stack_is_scored_as_its_models_are(architecture):
    torch.manual_seed(0)
    x = torch.randn(40, 64, dtype=torch.float64)
    labels = np.stack([np.arange(40) % 3, np.arange(40) % 2])
    stack = fit_many(build(architecture, (1, 8, 8)), x, labels, None, [1, 2], Recipe(steps=5))
    with quiet():
        whole = LastLayerGGN(stack, 0.01).fit(x, torch.as_tensor(labels)).self_influence(x, torch.as_tensor(labels))
        for s, model in enumerate(stack):
            y = torch.as_tensor(labels[s])
            torch.testing.assert_close(whole[s], LastLayerGGN(model, 0.01).fit(x, y).self_influence(x, y))


def test_other_estimators_refuse_a_mapped_stack_and_say_what_to_do():
    x, y = torch.randn(10, 64), np.arange(10) % 3
    stack = fit_many(build("vit", (1, 8, 8)), x, y, None, [1], Recipe(steps=1))
    with pytest.raises(ValueError, match=r"list\(stack\)"):
        EKFAC(stack).fit(x, torch.as_tensor(y))
