"""Leave-one-out predictions, in nats, against true refits of softmax regression on digits, in float64."""

import numpy as np
import pytest
import torch
from influence_oracle import arranged, flat, gradients, problem
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from datalab import influence, retraining
from datalab.errors import UserError
from datalab.influence import CG, EKFAC, Arnoldi, ExactGGN, ExactHessian, GradDot, LastLayerGGN, LiSSA
from datalab.influence.estimator import quiet

L2 = 0.01


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x, y = torch.tensor(data.data / 16), torch.tensor(data.target)
    train, val = (x[:600], y[:600]), (x[600:1200], y[600:1200])
    return retraining.fit_softmax(*train, 10, L2), train, val


@pytest.fixture(scope="module")
def refits(digits):
    """100 examples, evenly over the ranks of the prediction, and what removing each does."""
    model, train, val = digits
    order = ExactGGN(model, L2, l2=L2).fit(*train).leave_one_out(*train, *val).argsort()
    which = order[np.linspace(0, len(order) - 1, 100).astype(int)].numpy()
    return which, retraining.refitted_without(model, *train, *val, which, L2)


def error(predicted: np.ndarray, actual: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - actual) ** 2) / np.mean(actual**2)))


def test_the_fit_is_scikit_learns_where_both_penalise_the_same():
    data = load_digits()
    x = np.hstack([data.data / 16, np.ones((len(data.data), 1))])
    ours = retraining.fit_softmax(torch.tensor(x[:, :-1]), torch.tensor(data.target), 10, L2)
    theirs = LogisticRegression(C=1 / (L2 * len(x)), fit_intercept=False, tol=1e-10, max_iter=5000)
    coefficients = theirs.fit(x, data.target).coef_
    np.testing.assert_allclose(ours.weight.detach(), coefficients[:, :-1], atol=1e-5)
    np.testing.assert_allclose(ours.bias.detach(), coefficients[:, -1], atol=1e-5)


@pytest.mark.parametrize("kind", [ExactGGN, ExactHessian, LastLayerGGN, CG])
def test_removals_are_predicted_in_nats(kind, digits, refits):
    model, train, val = digits
    which, actual = refits
    predicted = kind(model, L2, l2=L2).fit(*train).leave_one_out(*train, *val).numpy()[which]
    assert np.corrcoef(predicted, actual)[0, 1] >= 0.99
    # One Newton step with example i's own curvature taken out, or the derivative alone.
    assert error(predicted, actual) <= (0.06 if kind is ExactGGN else 0.5)


def test_without_the_penalty_in_the_examples_gradient_the_prediction_is_worse(digits, refits):
    model, train, val = digits
    which, actual = refits
    estimator = ExactGGN(model, L2, l2=L2).fit(*train)
    plain = -estimator.influence_on(*train, *val).numpy()[which] / len(train[0])
    assert error(plain, actual) > 2 * error(estimator.leave_one_out(*train, *val).numpy()[which], actual)


def test_the_leverage_correction_is_the_newton_step_without_the_example(digits):
    model, (x, y), val = digits
    x, y, n = x[:60], y[:60], 60
    estimator = ExactGGN(model, L2, l2=L2).fit(x, y)
    theta = torch.cat([model.weight.data, model.bias.data[:, None]], 1)
    p = torch.softmax(model(x), 1).detach()
    a = torch.cat([x, torch.ones(n, 1, dtype=x.dtype)], 1)
    parts = [torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(b, b)) for q, b in zip(p, a, strict=True)]
    g = torch.einsum("nc,nd->ncd", p - torch.eye(10, dtype=x.dtype)[y], a).flatten(1)
    v = estimator._network.flatten(estimator._mean_gradient(*estimator._feed.checked(["x, y"], val)))[0, 0]
    total, steps = sum(parts), []
    for i in range(n):
        hessian = (total - parts[i]) / n + (1 - 1 / n) * L2 * torch.eye(650, dtype=x.dtype)
        gradient = (g.sum(0) - g[i]) / n + (1 - 1 / n) * L2 * theta.flatten()
        steps.append(-v @ torch.linalg.solve(hessian, gradient - (g.mean(0) + L2 * theta.flatten())))
    # (the full objective's gradient is 0 at an optimum; here, on 60 of 600, it is taken off)
    torch.testing.assert_close(estimator.leave_one_out(x, y, *val), torch.stack(steps), rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(
    ("build", "damping"),
    [
        (lambda m, d: CG(m, d, tolerance=1e-12), L2),
        (lambda m, d: LiSSA(m, d, depth=300), 0.5),  # a step gains a factor of 1 - d/s
        (lambda m, d: Arnoldi(m, d, rank=650), L2),
        (ExactHessian, L2),
        (LastLayerGGN, L2),
    ],
    ids=["CG", "LiSSA", "Arnoldi at full rank", "ExactHessian", "LastLayerGGN"],
)
def test_every_solver_converges_to_the_exact_one(build, damping, digits):
    model, train, val = digits
    exact, other = ExactGGN(model, damping).fit(*train), build(model, damping).fit(*train)
    few = (train[0][:20], train[1][:20])
    wanted = exact.self_influence(*few)
    torch.testing.assert_close(other.self_influence(*few), wanted, rtol=1e-7, atol=0)
    wanted = exact.influence_on(*train, *val)
    torch.testing.assert_close(
        other.influence_on(*train, *val), wanted, rtol=1e-6, atol=1e-7 * float(wanted.abs().max())
    )


def test_arnoldis_error_falls_with_its_rank(digits):
    model, train, val = digits
    wanted = ExactGGN(model, L2).fit(*train).influence_on(*train, *val)
    errors = [
        float((Arnoldi(model, L2, rank=rank).fit(*train).influence_on(*train, *val) - wanted).norm())
        for rank in (5, 50, 300)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_an_estimator_without_curvature_predicts_no_removal(digits):
    model, train, val = digits
    with pytest.raises(UserError, match="has no curvature"):
        GradDot(model).fit(*train).leave_one_out(*train, *val)


def test_ekfac_predicts_the_order_of_removals(digits, refits):
    model, train, val = digits
    which, actual = refits
    predicted = EKFAC(model, L2, l2=L2).fit(*train).leave_one_out(*train, *val).numpy()[which]
    assert np.corrcoef(predicted, actual)[0, 1] > 0.8


def test_the_lds_of_the_true_linear_response_is_one_and_of_its_opposite_minus_one():
    rng = np.random.default_rng(0)
    kept, effects = rng.random((40, 30)) < 0.5, rng.standard_normal((5, 30))
    subsets = retraining.Subsets(kept, np.repeat((kept @ effects.T)[:, None], 2, axis=1))
    np.testing.assert_allclose(retraining.lds(effects, subsets), 1)
    np.testing.assert_allclose(retraining.lds(-effects, subsets), -1)
    np.testing.assert_allclose(retraining.lds(0 * effects, subsets), 0)
    with pytest.raises(UserError, match="need \\(n_test, n\\)"):
        retraining.lds(effects.T, subsets)


@pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
@pytest.mark.parametrize("kind", [EKFAC, CG])
def test_the_penalty_counts_every_parameter_once_whatever_the_layers_groups(kind):
    model, train, val = problem("grouped and depthwise convolutions")
    estimator = kind(model, 0.05, l2=0.3).fit(*train)
    theta = flat(arranged(model, {name: p[None].detach() for name, p in model.named_parameters()}))[0]
    v = estimator._network.flatten(estimator._solve(estimator._mean_gradient(*estimator._feed.checked(["x, y"], val))))[
        0, 0
    ]
    g = flat(gradients(model, *train))
    torch.testing.assert_close(estimator.leave_one_out(*train, *val), (g @ v + 0.3 * theta @ v) / len(g))


@pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_last_layers_penalty_is_taken_whole_even_where_its_rows_do_not_sum_to_0(shift):
    model, train, val = problem("softmax regression")
    model[0].weight.data += shift
    ours, exact = (
        kind.fit(*train) for kind in (LastLayerGGN(model, 0.05, l2=0.05), ExactHessian(model, 0.05, l2=0.05))
    )
    torch.testing.assert_close(ours.leave_one_out(*train, *val), exact.leave_one_out(*train, *val))
    torch.testing.assert_close(ours.newton_gain_, exact.newton_gain_)


@pytest.mark.parametrize("kind", [ExactGGN, EKFAC, LastLayerGGN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_examples_of_the_training_set_can_be_left_out(kind, dtype):
    """Before: numbers for examples that no fit had seen."""
    model, (x, y), (x_val, y_val) = problem("an MLP")
    x, x_val, model = x.to(dtype), x_val.to(dtype), model.to(dtype)
    estimator = kind(model, 0.1, batch_size=7).fit(x, y)
    whole = estimator.leave_one_out(x, y, x_val, y_val)
    some = estimator.leave_one_out(x[3:8].double().numpy(), y[3:8], x_val, y_val)
    torch.testing.assert_close(some, whole[3:8])
    for others in (
        (x_val, y_val),
        (torch.cat([x, x_val[:1]]), torch.cat([y, y_val[:1]])),
        (torch.cat([x, x]), y.repeat(2)),
    ):
        with pytest.raises(UserError, match="x: leave_one_out removes training examples, and some of these were not"):
            estimator.leave_one_out(*others, x_val, y_val)


class Scaled(nn.Module):
    """Of two arguments, the first complex."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, a, b):
        return self.layer(a.real * b)


def test_examples_are_known_again_whatever_the_order_of_a_dict_and_conjugated():
    """Before: a dict in another order was refused, and a conjugated tensor raised RuntimeError."""
    g = torch.Generator().manual_seed(0)
    a = torch.complex(torch.randn(12, 6, generator=g), torch.randn(12, 6, generator=g)).to(torch.complex128).conj()
    b, y = torch.rand(12, 1, generator=g).double(), torch.arange(12) % 3
    with quiet():
        estimator = EKFAC(Scaled().double(), 0.1).fit({"a": a, "b": b}, y)
    wanted = estimator.leave_one_out({"a": a, "b": b}, y, {"a": a, "b": b}, y)
    other = {"b": b[:5], "a": a[:5].resolve_conj()}
    torch.testing.assert_close(estimator.leave_one_out(other, y[:5], {"a": a, "b": b}, y), wanted[:5])
    with pytest.raises(UserError, match="some of these were not"):
        estimator.leave_one_out({"a": a.conj(), "b": b}, y, {"a": a, "b": b}, y)


def test_an_example_is_known_again_where_minus_0_stands_for_0():
    """Before: refused, though the two are equal."""
    model, (x, y), val = problem("an MLP")
    x = torch.where(torch.arange(x.shape[1]) % 2 == 0, 0.0, x)
    with quiet():
        estimator = EKFAC(model, 0.1).fit(x, y)
    others = torch.where(x == 0, -0.0, x)
    assert not torch.equal(torch.signbit(others), torch.signbit(x))
    torch.testing.assert_close(estimator.leave_one_out(others, y, *val), estimator.leave_one_out(x, y, *val))


def test_after_load_more_examples_than_were_fitted_are_no_removals(digits, tmp_path):
    model, (x, y), val = digits
    estimator = EKFAC(model, L2, l2=L2).fit(x[:50], y[:50])
    estimator.save(tmp_path / "file")
    loaded = influence.load(tmp_path / "file", model)
    assert len(loaded.leave_one_out(x[:50], y[:50], *val)) == 50
    with pytest.raises(UserError, match="some of these were not"):
        loaded.leave_one_out(x[:51], y[:51], *val)
