"""The estimators against torch.func per-example derivatives and explicit matrices, all in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from datalab.errors import UserError
from datalab.influence import EKFAC, ExactGGN, LastLayerGGN
from datalab.influence.last_layer import Target, scores_many

ESTIMATORS = [LastLayerGGN, ExactGGN, EKFAC]
MODELS = {
    "softmax regression": lambda: nn.Sequential(nn.Linear(12, 4)),
    "an MLP": lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)),
    "an MLP without biases": lambda: nn.Sequential(
        nn.Linear(12, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 4, bias=False)
    ),
    "a CNN of odd shapes": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.Conv2d(1, 3, (2, 3), stride=(1, 2), padding=(1, 1), bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 2, 2, dilation=(2, 1)),
        nn.Flatten(),
        nn.Linear(4, 4),
    ),
}


def problem(name: str = "an MLP", n: int = 23, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    model = MODELS[name]().double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 2
    x, x_val = torch.randn(n, 12, generator=g).double(), torch.randn(7, 12, generator=g).double()
    return model, (x, torch.randint(0, 4, (n,), generator=g)), (x_val, torch.randint(0, 4, (7,), generator=g))


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Each example's loss gradient, by parameter, from torch.func."""

    def loss(parameters, one, label):
        return nn.functional.cross_entropy(functional_call(model, parameters, (one[None],)), label[None])

    return vmap(grad(loss), (None, 0, 0))(dict(model.named_parameters()), x, y)


def flat(by_parameter: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten(1) for value in by_parameter.values()], 1)


def gauss_newton(model: nn.Module, x: Tensor) -> Tensor:
    """The mean over x of J' Hessian-of-the-loss J, as a full matrix, from torch.func."""
    parameters = dict(model.named_parameters())
    jacobian = vmap(jacrev(lambda p, one: functional_call(model, p, (one[None],))[0]), (None, 0))(parameters, x)
    jacobian = torch.cat([value.flatten(2) for value in jacobian.values()], 2)
    of_loss = vmap(torch.func.hessian(lambda z: torch.logsumexp(z, 0)))(model(x).detach())
    return torch.einsum("ncp,ncd,ndq->pq", jacobian, of_loss, jacobian) / len(x)


def last_parameters(model: nn.Module) -> set[str]:
    index = max(i for i, layer in enumerate(model) if list(layer.parameters()))
    return {f"{index}.weight", f"{index}.bias"}


def explicit(kind: type, model: nn.Module, x: Tensor, damping: float) -> tuple[list[str], Tensor]:
    """The covered parameters and the explicit inverse of H + d I over them."""
    names = list(dict(model.named_parameters()))
    sizes = [p.numel() for p in model.parameters()]
    if kind is EKFAC:
        return names, ekfac_inverse(model, x, damping)
    full = gauss_newton(model, x)
    if kind is LastLayerGGN:
        chosen = [name in last_parameters(model) for name in names]
        rows = torch.cat([torch.full((size,), c) for size, c in zip(sizes, chosen, strict=True)])
        full, names = full[rows][:, rows], [name for name, c in zip(names, chosen, strict=True) if c]
    return names, torch.linalg.inv(full + damping * torch.eye(len(full), dtype=full.dtype))


def ekfac_inverse(model: nn.Module, x: Tensor, damping: float) -> Tensor:
    """EK-FAC's inverse as an explicit matrix, from its definition: the Fisher by torch.func, inputs by unfold."""
    p = torch.softmax(model(x), 1).detach()
    per_class = [gradients(model, x, torch.full((len(x),), c)) for c in range(4)]
    blocks = []
    for i, layer in enumerate(model):
        names = [f"{i}.{name}" for name, _ in layer.named_parameters()]
        if not names:
            continue
        a = model[:i](x).detach()
        if isinstance(layer, nn.Conv2d):
            a = nn.functional.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
        a = a.reshape(len(x), -1, a.shape[-1])
        if layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[..., :1])], 2)
        output = layer(model[:i](x)).detach().requires_grad_()
        log_p = torch.log_softmax(model[i + 1 :](output.clone()), 1)
        s = 0
        for c in range(4):
            (g,) = torch.autograd.grad((log_p[:, c] * p[:, c].sqrt()).sum(), output, retain_graph=True)
            g = g.flatten(2).mT if isinstance(layer, nn.Conv2d) else g[:, None]
            s = s + torch.einsum("nto,ntq->oq", g, g)
        q_a, q_g = torch.linalg.eigh(torch.einsum("nti,ntj->ij", a, a))[1], torch.linalg.eigh(s)[1]
        weight = torch.stack([g[names[0]].flatten(2) for g in per_class], 1)
        if layer.bias is not None:
            weight = torch.cat([weight, torch.stack([g[names[1]] for g in per_class], 1)[..., None]], 3)
        rotated = torch.einsum("oj,ncoi,ik->ncjk", q_g, weight, q_a)
        values = (p[:, :, None, None] * rotated**2).sum(1).mean(0)
        basis = torch.einsum("oj,ik->oijk", q_g, q_a)
        inverse = torch.einsum("oijk,jk,pqjk->oipq", basis, 1 / (values + damping), basis)
        out, n_in = values.shape
        width = n_in - (layer.bias is not None)
        order = [o * n_in + k for o in range(out) for k in range(width)]
        order += [o * n_in + width for o in range(out)] if layer.bias is not None else []
        inverse = inverse.reshape(out * n_in, -1)[order][:, order]
        blocks.append(inverse)
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", MODELS)
def test_all_three_verbs_equal_torch_func_gradients_and_an_explicit_inverse(kind, name):
    model, train, val = problem(name)
    estimator = kind(model, damping=0.05, batch_size=5).fit(*train)
    covered, inverse = explicit(kind, model, train[0], 0.05)
    g, v = (flat({k: gradients(model, *data)[k] for k in covered}) for data in (train, val))
    own = torch.einsum("np,pq,nq->n", g, inverse, g)
    torch.testing.assert_close(estimator.self_influence(*train), own, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(estimator.pairwise(*train, *val), -v @ inverse @ g.T, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(estimator.influence_on(*train, *val), -g @ inverse @ v.mean(0), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_diagonal_of_pairwise_on_the_training_set_is_minus_the_self_influence(kind):
    model, train, _ = problem()
    estimator = kind(model).fit(*train)
    torch.testing.assert_close(-estimator.pairwise(*train, *train).diagonal(), estimator.self_influence(*train))
    assert (estimator.self_influence(*train) >= 0).all()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_influence_on_is_the_mean_of_pairwise(kind):
    model, train, val = problem()
    estimator = kind(model).fit(*train)
    torch.testing.assert_close(estimator.influence_on(*train, *val), estimator.pairwise(*train, *val).mean(0))


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("name", MODELS)
def test_the_batch_size_changes_nothing_and_permuted_examples_permute_their_scores(kind, name):
    model, (x, y), val = problem(name)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    whole = kind(model, batch_size=1000).fit(x, y)
    parts = kind(model, batch_size=3).fit(x[order], y[order])
    own, on = whole.self_influence(x, y), whole.influence_on(x, y, *val)
    torch.testing.assert_close(parts.self_influence(x[order], y[order]), own[order], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(parts.influence_on(x[order], y[order], *val), on[order], rtol=1e-8, atol=1e-9)
    assert parts.damping_ == pytest.approx(whole.damping_)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_as_damping_grows_influence_becomes_the_inner_product_of_gradients(kind):
    model, train, val = problem()
    covered = last_parameters(model) if kind is LastLayerGGN else set(dict(model.named_parameters()))
    g, v = (flat({k: w for k, w in gradients(model, *data).items() if k in covered}) for data in (train, val))
    estimator = kind(model, damping=1e8).fit(*train)
    torch.testing.assert_close(estimator.self_influence(*train) * 1e8, g.square().sum(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(estimator.pairwise(*train, *val) * 1e8, -v @ g.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [ExactGGN, LastLayerGGN])
def test_on_softmax_regression_the_curvature_is_the_closed_form_hessian(kind):
    model, train, _ = problem("softmax regression")
    x = torch.cat([train[0], torch.ones(len(train[0]), 1)], 1).double()
    p = torch.softmax(model(train[0]), 1).detach()
    hessian = sum(
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(a, a)) for q, a in zip(p, x, strict=True)
    ) / len(x)
    g = torch.stack([torch.kron(q, a) for q, a in zip(p - torch.eye(4).double()[train[1]], x, strict=True)])
    own = (g @ torch.linalg.inv(hessian + 0.01 * torch.eye(52).double()) * g).sum(1)
    torch.testing.assert_close(kind(model, damping=0.01).fit(*train).self_influence(*train), own, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_automatic_damping_is_l2_plus_a_thousandth_of_the_mean_diagonal(kind):
    model, train, _ = problem()
    diagonal = gauss_newton(model, train[0]).diagonal()
    if kind is LastLayerGGN:
        diagonal = diagonal[-24:]
    estimator = kind(model, l2=0.02).fit(*train)
    assert estimator.damping_ == pytest.approx(0.02 + 1e-3 * float(diagonal.detach().mean()), rel=1e-9)


def test_ekfac_is_the_gauss_newton_where_its_kronecker_form_is_exact():
    model, train, val = problem("softmax regression")
    for parameter in model.parameters():
        parameter.data.zero_()  # the same probabilities everywhere: H = (diag(p) - pp') kron (mean of aa')
    ekfac, exact = (kind(model, damping=0.01).fit(*train) for kind in (EKFAC, ExactGGN))
    torch.testing.assert_close(ekfac.self_influence(*train), exact.self_influence(*train), rtol=1e-8, atol=0)
    torch.testing.assert_close(ekfac.pairwise(*train, *val), exact.pairwise(*train, *val), rtol=1e-8, atol=1e-9)


def test_the_sampled_fisher_is_seeded_and_tends_to_the_exact_one(monkeypatch):
    import datalab.influence.ekfac as module

    model, train, _ = problem()
    exact = EKFAC(model, damping=0.05).fit(*train).self_influence(*train)
    monkeypatch.setattr(module, "MAX_EXACT_CLASSES", 3)
    few, same, batched, other = (
        EKFAC(model, damping=0.05, seed=seed, batch_size=size).fit(*train).self_influence(*train)
        for seed, size in ((1, 512), (1, 512), (1, 3), (2, 512))
    )
    torch.testing.assert_close(few, same, rtol=0, atol=0)
    torch.testing.assert_close(few, batched)
    assert not torch.allclose(few, other)
    many = EKFAC(model, damping=0.05, samples=3000).fit(*train).self_influence(*train)
    torch.testing.assert_close(many, exact, rtol=0.1, atol=0)


def test_the_stack_scores_as_lastlayerggn_does_on_each_model():
    models = [problem(seed=s)[0] for s in range(3)]
    _, train, val = problem()
    features = [torch.stack([m[:2](x).detach() for m in models]) for x in (train[0], val[0])]
    logits = [torch.stack([m(x).detach() for m in models]) for x in (train[0], val[0])]
    scores = scores_many(features[0], logits[0], train[1], 1e-4, targets=[Target(features[1], logits[1], val[1])])
    for s, model in enumerate(models):
        estimator = LastLayerGGN(model, l2=1e-4).fit(*train)
        torch.testing.assert_close(estimator.self_influence(*train), scores.self_influence[s], rtol=1e-9, atol=0)
        torch.testing.assert_close(
            estimator.influence_on(*train, *val), scores.influence_on[0][s], rtol=1e-8, atol=1e-9
        )


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_float32_model_scores_within_1e_3_of_its_float64_copy(kind):
    model, train, val = problem()
    exact = kind(model).fit(*train)
    single = kind(problem()[0].float()).fit(*train)
    assert single.self_influence(*train).dtype == torch.float32
    torch.testing.assert_close(single.self_influence(*train).double(), exact.self_influence(*train), rtol=1e-3, atol=0)
    assert single.influence_on(*train, *val).dtype == torch.float32


@pytest.mark.parametrize("kind", [ExactGGN, LastLayerGGN, EKFAC])
def test_influence_predicts_leave_one_out_retraining(kind):
    digits = load_digits()
    x = torch.tensor(np.hstack([digits.data[:, ::2] / 16, np.ones((len(digits.data), 1))]))
    y, l2, n = torch.tensor(digits.target), 0.01, 150
    train, val = (x[:n], y[:n]), (x[n : n + 300], y[n : n + 300])

    def refit(weights, start):
        def objective(flat_parameters):
            w = torch.tensor(flat_parameters).view(10, -1).requires_grad_()
            losses = nn.functional.cross_entropy(train[0] @ w.T, train[1], reduction="none")
            value = (losses * weights).sum() / n + l2 / 2 * w.square().sum()
            value.backward()
            return value.item(), w.grad.numpy().ravel()

        solution = minimize(
            objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9}
        )
        return solution.x

    def target_loss(flat_parameters):
        return float(nn.functional.cross_entropy(val[0] @ torch.tensor(flat_parameters).view(10, -1).T, val[1]))

    full = refit(torch.ones(n), np.zeros(10 * x.shape[1]))
    model = nn.Sequential(nn.Linear(x.shape[1], 10, bias=False)).double()
    model[0].weight.data = torch.tensor(full).view(10, -1)
    predicted = -kind(model, damping=l2).fit(*train).influence_on(*train, *val).numpy() / n
    chosen = np.argsort(predicted)[:: math.ceil(n / 30)]
    actual = [target_loss(refit((torch.arange(n) != i).double(), full)) - target_loss(full) for i in chosen]
    assert np.corrcoef(predicted[chosen], actual)[0, 1] > (0.99 if kind is not EKFAC else 0.8)
    slope = np.polyfit(predicted[chosen], actual, 1)[0]
    assert kind is EKFAC or 0.9 < slope < 1.6  # a linear prediction underestimates a removal


@pytest.mark.parametrize("kind", [ExactGGN, EKFAC])
@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Linear(12, 4), nn.LayerNorm(4)], "'1.weight' belongs to a LayerNorm"),
        ([nn.Unflatten(1, (2, 6)), nn.Conv1d(2, 1, 3), nn.Flatten()], "belongs to a Conv1d"),
        ([nn.Unflatten(1, (2, 2, 3)), nn.Conv2d(2, 4, (2, 3), groups=2), nn.Flatten()], "groups must be 1"),
        ([nn.Dropout(), nn.Linear(12, 4)], "train mode"),
        ([nn.ReLU()], "no Linear or Conv2d layer"),
        ([*[nn.Linear(12, 12)] * 2, nn.Linear(12, 4)], "runs twice"),
    ],
)
def test_a_layer_that_cannot_be_taken_is_refused_by_name(kind, layers, words):
    _, train, _ = problem()
    with pytest.raises(UserError, match=words):
        kind(nn.Sequential(*layers).double()).fit(*train)


def test_lastlayerggn_refuses_a_model_that_does_not_end_in_a_linear_layer():
    _, train, _ = problem()
    with pytest.raises(UserError, match="last Linear layer"):
        LastLayerGGN(nn.Sequential(nn.Linear(12, 4), nn.Tanh()).double()).fit(*train)


def test_exactggn_refuses_above_15_000_parameters_and_names_the_alternatives():
    with pytest.raises(UserError, match=r"15,005 parameters.*EKFAC or LastLayerGGN"):
        ExactGGN(nn.Linear(3000, 5)).fit(torch.zeros(2, 3000), torch.tensor([0, 1]))


def test_a_layer_without_variance_scores_finitely_under_automatic_damping():
    model, (x, y), _ = problem("an MLP without biases")
    model[0].weight.data[0] = 0
    for kind in ESTIMATORS:
        assert torch.isfinite(kind(model).fit(x, y).self_influence(x, y)).all()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_singular_curvature_without_damping_is_refused(kind):
    model, (x, y), _ = problem()
    with pytest.raises(UserError, match="damping"):
        kind(model, damping=0).fit(x[:2] * 0, y[:2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:-1]), "need x"),
        (lambda x, y: (x, y + 2), r"labels must lie in 0\.\.3"),
        (lambda x, y: (x, y.double()), "integer"),
        (lambda x, y: (x * float("nan"), y), "finite"),
        (lambda x, y: (x[:0], y[:0]), "n > 0"),
    ],
)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_bad_data_is_refused_in_one_line(kind, change, words):
    model, train, _ = problem()
    with pytest.raises(UserError, match=words) as caught:
        kind(model).fit(*change(*train))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damping", [-1, "atuo", float("nan"), None])
def test_a_damping_that_is_no_number_of_at_least_0_is_refused(damping):
    with pytest.raises(UserError, match="damping"):
        EKFAC(problem()[0], damping)


def test_scores_before_fit_are_refused():
    model, train, _ = problem()
    with pytest.raises(UserError, match="call fit"):
        EKFAC(model).self_influence(*train)
