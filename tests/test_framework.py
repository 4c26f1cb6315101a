"""DATA-LAB: the identity, collapse and uniformity on real data, what each variant can see, and its gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from datalab import data, framework, noise
from datalab.errors import UserError
from datalab.training import Recipe, protocol_recipe

CAPS = {"train": 300, "validation": 60, "test": 100}
DEFAULT = {"lambda1": 5e-5, "lambda2": 1.0}

losses_ = st.lists(st.floats(0, 20), min_size=1, max_size=40).map(lambda v: torch.tensor(v, dtype=torch.float64))


def objective(log_w: torch.Tensor, losses: torch.Tensor, lambda2: float) -> float:
    return float((log_w.exp() * losses).sum() + lambda2 * framework.kl_to_uniform(log_w))


@given(losses_, st.floats(0.05, 50))
@settings(max_examples=100, deadline=None)
def test_the_optimal_weights_reach_the_tilted_loss_to_1e_10(losses, lambda2):
    log_w = framework.optimal_log_weights(losses, lambda2)
    assert math.isclose(objective(log_w, losses, lambda2), float(framework.tilted_loss(losses, lambda2)), abs_tol=1e-10)


@given(losses_, st.floats(0.05, 50), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_no_weights_go_below_the_tilted_loss(losses, lambda2, seed):
    w = np.random.default_rng(seed).gamma(0.3, size=len(losses)) + 1e-12
    log_w = torch.as_tensor(w / w.sum()).log()
    assert objective(log_w, losses, lambda2) >= float(framework.tilted_loss(losses, lambda2)) - 1e-10


def test_a_numerical_optimiser_finds_the_same_minimum():
    losses = torch.as_tensor(np.random.default_rng(0).exponential(size=12))

    def of_scores(s: np.ndarray) -> float:
        return objective(torch.log_softmax(torch.as_tensor(s), 0), losses, 0.7)

    found = minimize(of_scores, np.zeros(12), method="BFGS", options={"gtol": 1e-10})
    assert found.fun == pytest.approx(float(framework.tilted_loss(losses, 0.7)), abs=1e-8)
    expected = framework.optimal_log_weights(losses, 0.7).exp()
    np.testing.assert_allclose(torch.softmax(torch.as_tensor(found.x), 0), expected, atol=1e-5)


def test_without_the_kl_term_all_weight_lies_on_the_smallest_loss():
    losses = torch.tensor([0.5, 0.2, 0.2, 3.0], dtype=torch.float64)
    log_w = framework.optimal_log_weights(losses, 0)
    torch.testing.assert_close(log_w.exp(), torch.tensor([0, 0.5, 0.5, 0], dtype=torch.float64))
    assert framework.tilted_loss(losses, 0) == 0.2


def test_the_divergence_and_the_effective_size_know_their_ends():
    uniform, one = torch.full((8,), 1 / 8).log(), torch.tensor([0.0] + [-1e4] * 7)
    assert float(framework.kl_to_uniform(uniform)) == pytest.approx(0, abs=1e-6)
    assert float(framework.kl_to_uniform(one)) == pytest.approx(math.log(8))
    assert float(framework.effective_sample_size(uniform.exp())) == pytest.approx(8)
    assert float(framework.effective_sample_size(one.exp())) == pytest.approx(1)


@pytest.fixture(scope="module")
def noisy():
    p = data.prepare("digits", 0, 7, CAPS, "fast")
    return p, noise.corrupt(p.y_train, "symmetric", 0.2, p.n_classes, np.random.default_rng(0))


@pytest.fixture(scope="module", params=framework.VARIANTS)
def swept(request, noisy):
    p, y = noisy
    x, lambda2 = torch.as_tensor(p.x_train), [0.0, 1.0, 1000.0]
    module = framework.DataLab(p.grid, p.n_classes, variant=request.param)
    stack = framework.fit_datalab(module, x, y, [1] * 3, protocol_recipe(), lambda1=5e-5, lambda2=lambda2)
    return request.param, stack, framework.weights(stack, x, y), y != p.y_train


def test_weights_collapse_without_the_kl_term_and_are_uniform_under_a_strong_one(swept):
    variant, _, w, _ = swept
    torch.testing.assert_close(w.sum(1), torch.ones(3), rtol=1e-4, atol=0)
    share = framework.effective_sample_size(w) / w.shape[1]
    assert share[0] < (0.02 if variant == "paper" else 0.2)  # a class's share cannot collapse in label-aware
    assert share[0] < share[1] < share[2]
    assert share[2] > 0.999


def test_only_a_scorer_that_sees_label_and_loss_tells_flipped_labels(swept):
    variant, _, w, flipped = swept
    clean, wrong = w[1][~flipped].mean(), w[1][flipped].mean()
    assert wrong < (0.5 if variant == "label-aware" else 1.0) * clean
    assert variant == "label-aware" or wrong > 0.5 * clean


def test_a_class_keeps_its_share_of_label_aware_weights(noisy):
    p, y = noisy
    x = torch.as_tensor(p.x_train)
    module = framework.DataLab(p.grid, p.n_classes, variant="label-aware")
    w = framework.weights(framework.fit_datalab(module, x, y, [3], Recipe(steps=40), **DEFAULT), x, y)[0].numpy()
    for c in range(p.n_classes):
        assert w[y == c].sum() == pytest.approx(np.mean(y == c), rel=1e-4)


@pytest.mark.parametrize("variant", framework.VARIANTS)
def test_the_paper_variant_weighs_equal_features_alike_whatever_their_label(noisy, variant):
    p, y = noisy
    x = torch.as_tensor(p.x_train)
    module = framework.DataLab(p.grid, p.n_classes, variant=variant)
    stack = framework.fit_datalab(module, x, y, [3], Recipe(steps=40), **DEFAULT)
    twins, labels = x[:1].repeat(10, 1), np.repeat([0, 1], 5)
    labels[0] = y[0]
    w = framework.weights(stack, torch.cat([twins, x]), np.concatenate([labels, y]))[0, :10]
    alike = float(w.max() / w.min()) < 1 + 1e-5
    assert alike == (variant == "paper")


@pytest.mark.parametrize("variant", framework.VARIANTS)
@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("weighting", [True, False])
def test_the_objective_is_the_formula_with_each_component_on_or_off(variant, projection, weighting):
    torch.manual_seed(0)
    module = framework.DataLab((1, 1, 6), 3, hidden=5, width=4, variant=variant, projection=projection,
                               weighting=weighting).double()  # fmt: skip
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 3
    given_ = {name: torch.tensor(v).double() for name, v in (("lambda1", 0.01), ("lambda2", 0.3), ("tau", 2.0))}
    found = float(module.objective(x, y, **given_))
    losses = torch.nn.functional.cross_entropy(module(x), y, reduction="none")
    theta = [p for name, p in module.named_parameters() if not name.startswith("scorer")]
    w = module.log_weights(x, y, given_["tau"]).exp() if weighting else torch.full((20,), 1 / 20, dtype=torch.float64)
    kl = float((w * (w * 20).log()).sum())
    lambda1, lambda2 = float(given_["lambda1"]), float(given_["lambda2"])
    wanted = float((w * losses).sum()) + lambda1 * sum(float(p.square().sum()) for p in theta) + lambda2 * kl
    assert found == pytest.approx(wanted, rel=1e-10)
    assert isinstance(module.project, torch.nn.Linear) == projection
    assert hasattr(module, "scorer") == weighting


def test_the_scorer_learns_by_weights_alone_and_not_through_its_loss_input():
    torch.manual_seed(0)
    module = framework.DataLab((1, 1, 6), 3, variant="label-aware").double()
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 3
    settings_ = {"lambda1": torch.tensor(0.0), "lambda2": torch.tensor(1.0), "tau": torch.tensor(1.0)}
    gradient = torch.autograd.grad(module.objective(x, y, **settings_), module.classifier[-1].bias)[0]
    w = module.log_weights(x, y, settings_["tau"]).exp().detach()
    error = torch.softmax(module(x), 1) - torch.nn.functional.one_hot(y, 3)
    torch.testing.assert_close(gradient, (w[:, None] * error).sum(0))


def test_a_batch_without_some_class_has_finite_gradients():
    module = framework.DataLab((1, 1, 6), 5, variant="label-aware")
    x, y = torch.randn(8, 6), torch.zeros(8, dtype=torch.long)
    settings_ = {"lambda1": torch.tensor(0.0), "lambda2": torch.tensor(1.0), "tau": torch.tensor(0.01)}
    module.objective(x, y, **settings_).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in module.parameters())


@pytest.mark.parametrize(
    ("given_", "words"),
    [({"lambda1": -1.0}, "lambda1: must be at least 0"), ({"lambda2": [-1.0]}, "lambda2"), ({"tau": 0.0}, "above 0")],
)
def test_settings_out_of_range_are_refused(given_, words):
    module = framework.DataLab((1, 1, 6), 3)
    with pytest.raises(UserError, match=words):
        framework.fit_datalab(module, torch.randn(9, 6), np.arange(9) % 3, [1], Recipe(steps=1), **(DEFAULT | given_))


def test_an_unknown_variant_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'label-aware'"):
        framework.DataLab((1, 1, 6), 3, variant="label-awar")
