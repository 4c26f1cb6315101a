"""Forward loss correction: the transition matrix against the noise that was made, the loss against its formula."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from datalab import correction, models, noise
from datalab.training import Recipe, fit_many


def labelled(n: int = 4000, classes: int = 4, rate: float = 0.3, kind: str = "pair"):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, classes, n)
    return clean, noise.corrupt(clean, kind, rate, classes, rng)


@pytest.mark.parametrize("kind", ["pair", "symmetric"])
def test_with_a_model_that_knows_the_classes_the_matrix_is_the_noise_that_was_made(kind):
    clean, observed = labelled(kind=kind)
    p = np.full((len(clean), 4), 0.02)
    p[np.arange(len(clean)), clean] = 0.94
    found = correction.transition_matrix(p, observed)
    made = np.array([[np.mean(observed[clean == i] == j) for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(found, made, atol=1e-12)


def test_rows_sum_to_one_and_a_class_nobody_is_in_keeps_its_labels():
    rng = np.random.default_rng(1)
    p = np.column_stack([rng.dirichlet([1, 1], 50), np.zeros(50)])
    found = correction.transition_matrix(p, rng.integers(0, 2, 50))
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found[2], [0, 0, 1])


def test_without_noise_the_corrected_loss_is_the_cross_entropy():
    torch.manual_seed(0)
    module = correction.ForwardCorrected(models.build("mlp", (1, 1, 6), 3, 5)).double()
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3
    found = module.objective(x, y, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found, cross_entropy(module(x), y), rtol=1e-9, atol=1e-9)


def test_the_corrected_loss_is_that_of_the_predicted_observed_label():
    torch.manual_seed(0)
    module = correction.ForwardCorrected(models.build("softmax", (1, 1, 6), 3)).double()
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3
    t = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)
    p = torch.softmax(module(x), 1)
    torch.testing.assert_close(module.objective(x, y, t), -(p @ t)[torch.arange(9), y].log().mean())


def test_it_undoes_a_known_noise_that_plain_training_learns():
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.standard_normal((3000, 2)), dtype=torch.float32)
    clean = (x[:, 0] > 0).long().numpy()
    observed = np.where((clean == 0) & (rng.random(3000) < 0.6), 1, clean)  # most of class 0 is labelled 1
    t = torch.tensor([[[0.4, 0.6], [0.0, 1.0]]])
    module, recipe = models.build("mlp", (1, 1, 2), 2, 16), Recipe(steps=400)
    plain = fit_many(module, x, observed, None, [1], recipe)
    corrected = fit_many(
        correction.ForwardCorrected(module), x, observed, None, [1], recipe, settings={"transition": t}
    )
    right = [float(np.mean(stack.predict(x)[0].numpy() == clean)) for stack in (plain, corrected)]
    assert right[0] < 0.7
    assert right[1] > 0.95


def test_clean_shares_are_those_that_the_confident_joint_counts():
    rng = np.random.default_rng(0)
    clean = rng.choice(3, 4000, p=[0.6, 0.3, 0.1])
    noisy = np.where(rng.random(4000) < 0.3, rng.integers(0, 3, 4000), clean)
    p = 0.9 * np.eye(3)[clean] + 0.1 / 3
    shares = correction.clean_shares(p, noisy)
    np.testing.assert_allclose(shares, np.bincount(clean) / 4000, atol=0.01)
    assert abs(np.bincount(noisy) / 4000 - shares).max() > 0.03, "the observed ones are not"
    assert correction.clean_shares(np.eye(3)[[0, 0, 0]], [0, 0, 2]).sum() == pytest.approx(1)
