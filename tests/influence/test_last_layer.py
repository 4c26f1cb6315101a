"""The stacks' hot path against explicit matrices in the full space of C (h + 1) parameters."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from datalab.errors import UserError
from datalab.influence import EKFAC, LastLayerGGN, softmax
from datalab.influence.last_layer import Target, scores_many
from datalab.stack import Stack

L2 = 1e-4


def whitened(batches, dtype):
    ggn = softmax.SoftmaxGGN(batches, L2, 1e-3, dtype)
    return ggn.whitened(*torch.linalg.eigh(ggn.moment))


def stack(s=2, n=40, h=5, c=4, m=15, seed=0, spread=1.0, dtype=torch.float64):
    """Features, logits and labels of a random stack, and of a target set under the same last layer."""
    g = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(s, c, h, generator=g, dtype=torch.float64), torch.randn(s, 1, c, generator=g).double()
    both = []
    for rows in (n, m):
        features = torch.randn(s, rows, h, generator=g, dtype=torch.float64).relu()
        logits = spread * (features @ weight.mT + bias)
        both += [features.to(dtype), logits.to(dtype), torch.randint(0, c, (s, rows), generator=g)]
    return both[:3], Target(*both[3:])


def explicit(features: Tensor, logits: Tensor, labels: Tensor, target: tuple, l2: float, relative: float):
    """Self-influence and influence of one model, by the full matrix of torch's own derivatives of the loss."""
    n, c = logits.shape
    features, logits, x, z = (t.double() for t in (features, logits, target[0], target[1]))

    def gradients(a, scores, y):
        loss = torch.func.vmap(torch.func.grad(lambda s, k: -torch.log_softmax(s, 0).gather(0, k[None])[0]))
        a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
        return torch.einsum("nc,nf->ncf", loss(scores, y), a).flatten(1), a

    g, a = gradients(features, logits, labels)
    hessian = torch.func.vmap(torch.func.hessian(lambda s: torch.logsumexp(s, 0)))(logits)
    full = torch.einsum("njk,nf,ng->jfkg", hessian, a, a).reshape(c * a.shape[1], -1) / n
    inverse = torch.linalg.inv(full + (l2 + relative * full.diagonal().mean()) * torch.eye(len(full), dtype=a.dtype))
    return torch.einsum("np,pq,nq->n", g, inverse, g), -g @ inverse @ gradients(x, z, target[2])[0].mean(0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 6), st.integers(1, 6), st.integers(1, 30), st.integers(1, 9), st.floats(0, 1), st.integers(0, 999)
)
def test_scores_equal_explicit_matrices_in_the_full_space(c, h, n, m, relative, seed):
    train, target = stack(2, n, h, c, m, seed)
    scores = scores_many(*train, L2, relative, [target])
    for s in range(2):
        own, on = explicit(*(t[s] for t in train), [t[s] for t in target], L2, relative)
        torch.testing.assert_close(scores.self_influence[s], own, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(scores.influence_on[0][s], on, rtol=1e-8, atol=1e-8 * float(on.abs().max() + 1e-9))


@pytest.mark.parametrize("c", [8, 26])
def test_many_classes_equal_explicit_matrices_too(c):
    train, target = stack(1, 60, 20, c)
    scores = scores_many(*train, L2, targets=[target])
    own, on = explicit(*(t[0] for t in train), [t[0] for t in target], L2, 1e-3)
    torch.testing.assert_close(scores.self_influence[0], own, rtol=1e-8, atol=0)
    torch.testing.assert_close(scores.influence_on[0][0], on, rtol=1e-8, atol=1e-8 * float(on.abs().max()))


@pytest.mark.parametrize("spread", [1, 5, 30])
@pytest.mark.parametrize(("h", "c"), [(64, 6), (30, 12)])
def test_float32_stays_within_1e_4_of_float64(h, c, spread):
    train, target = stack(2, 300, h, c, 50, spread=spread, dtype=torch.float32)
    double = [t.double() if t.is_floating_point() else t for t in (*train, *target)]
    ours, exact = scores_many(*train, L2, targets=[target]), scores_many(*double[:3], L2, targets=[Target(*double[3:])])
    assert ours.self_influence.dtype == torch.float32
    torch.testing.assert_close(ours.self_influence.double(), exact.self_influence, rtol=1e-4, atol=1e-30)
    largest = exact.influence_on[0].abs().amax(1, keepdim=True)
    assert ((ours.influence_on[0] - exact.influence_on[0]).abs() <= 1e-5 * largest).all()


def test_where_float32_is_not_accurate_enough_float64_takes_over(monkeypatch):
    g = torch.Generator().manual_seed(0)
    features = 100 * (torch.randn(1, 400, 100, generator=g) @ torch.randn(100, 30, generator=g) / 10).relu()
    logits = features @ torch.randn(30, 10, generator=g) * 0.1
    labels = (logits + torch.randn(logits.shape, generator=g)).argmax(2)
    exact = scores_many(features.double(), logits.double(), labels, L2).self_influence
    kept = exact > 1e-30
    ours = scores_many(features, logits, labels, L2).self_influence.double()
    torch.testing.assert_close(ours[kept], exact[kept], rtol=1e-4, atol=0)
    monkeypatch.setattr(softmax, "_SAFE", float("inf"))
    unchecked = scores_many(features, logits, labels, L2).self_influence.double()
    assert ((unchecked - exact)[kept] / exact[kept]).abs().max() > 1e-4


def test_rare_classes_do_not_spoil_float32():
    (features, logits, labels), _ = stack(1, 300, 30, 10, dtype=torch.float32)
    logits[..., 5:] -= 12
    batch = softmax.examples(features[0], logits[0], labels[0])
    ggn = whitened([batch], torch.float32)
    assert ggn._first_refinement(batch) < 1e-6


def test_a_stack_scores_as_a_loop_over_its_models_does():
    train, target = stack(3)
    scores = scores_many(*train, L2, targets=[target])
    for s in range(3):
        one = scores_many(*(t[s : s + 1] for t in train), L2, targets=[Target(*(t[s : s + 1] for t in target))])
        torch.testing.assert_close(scores.self_influence[s : s + 1], one.self_influence, rtol=0, atol=0)
        torch.testing.assert_close(scores.influence_on[0][s : s + 1], one.influence_on[0], rtol=0, atol=0)


def test_two_targets_share_one_factorisation_and_score_as_each_alone(monkeypatch):
    train, target = stack()
    other = target._replace(labels=(target.labels + 1) % 4)
    calls = []
    kind = softmax.SoftmaxGGN
    monkeypatch.setattr(softmax, "SoftmaxGGN", lambda *a: calls.append(1) or kind(*a))
    both = scores_many(*train, L2, targets=[target, other])
    assert len(calls) == len(train[0])
    for scores, each in zip(both.influence_on, (target, other), strict=True):
        alone = scores_many(*train, L2, targets=[each]).influence_on[0]
        torch.testing.assert_close(scores, alone, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(both.self_influence, scores_many(*train, L2).self_influence)


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_permuting_examples_permutes_scores_and_permuting_classes_changes_nothing(seed):
    (features, logits, labels), target = stack(seed=seed)
    g = torch.Generator().manual_seed(seed)
    rows, classes = torch.randperm(40, generator=g), torch.randperm(4, generator=g)
    plain = scores_many(features, logits, labels, L2, targets=[target])
    moved = scores_many(features[:, rows], logits[:, rows], labels[:, rows], L2, targets=[target])
    torch.testing.assert_close(moved.self_influence, plain.self_influence[:, rows], rtol=1e-9, atol=0)
    torch.testing.assert_close(moved.influence_on[0], plain.influence_on[0][:, rows], rtol=1e-8, atol=1e-10)
    place = classes.argsort()
    renamed = Target(target.features, target.logits[..., classes], place[target.labels])
    named = scores_many(features, logits[..., classes], place[labels], L2, targets=[renamed])
    torch.testing.assert_close(named.self_influence, plain.self_influence, rtol=1e-9, atol=0)
    torch.testing.assert_close(named.influence_on[0], plain.influence_on[0], rtol=1e-8, atol=1e-10)


def test_on_itself_as_the_target_influence_is_minus_the_self_influence():
    (features, logits, labels), _ = stack(1)
    for i in range(3):
        alone = Target(features[:, i : i + 1], logits[:, i : i + 1], labels[:, i : i + 1])
        scores = scores_many(features, logits, labels, L2, targets=[alone])
        torch.testing.assert_close(-scores.influence_on[0][0, i], scores.self_influence[0, i])


def test_adding_a_constant_to_all_logits_changes_nothing():
    train, _ = stack()
    shifted = (train[0], train[1] + 7, train[2])
    ours, theirs = scores_many(*train, L2).self_influence, scores_many(*shifted, L2).self_influence
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_an_example_fitted_beyond_rounding_keeps_its_score_in_float32():
    (features, logits, labels), _ = stack(1, 300, 30, 10, spread=0.3)
    logits[0, 0] = 0
    logits[0, 0, labels[0, 0]] = 60  # a gradient of 1e-26, whose square float32 does not hold
    batch = softmax.examples(features[0], logits[0], labels[0])
    single, double = whitened([batch], torch.float32), softmax.SoftmaxGGN([batch], L2, 1e-3)
    ours, exact = (ggn.self_influence(batch.inputs, batch.gradient) for ggn in (single, double))
    assert 0 < exact[0] < 1e-45
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=0)


def test_shared_features_and_labels_may_be_expanded():
    (features, logits, labels), _ = stack()
    shared = features[:1].expand(2, -1, -1)
    ours = scores_many(shared, logits, labels[0], L2).self_influence
    theirs = scores_many(shared.contiguous(), logits, labels[:1].repeat(2, 1), L2).self_influence
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, z, y: (f[0], z, y), "the training set: need features"),
        (lambda f, z, y: (f[:, :9], z, y), "need features"),
        (lambda f, z, y: (f, z, y[:, :9]), "labels must be"),
        (lambda f, z, y: (f, z, y + 3), r"0\.\.3"),
        (lambda f, z, y: (f * np.nan, z, y), "finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, words):
    train, _ = stack()
    with pytest.raises(UserError, match=words):
        scores_many(*change(*train), L2)


def test_a_target_of_another_width_is_refused_by_its_place():
    train, target = stack()
    with pytest.raises(UserError, match="target 1"):
        scores_many(*train, L2, targets=[target, target._replace(features=target.features[..., :3])])


def test_a_singular_curvature_without_damping_is_refused():
    train, _ = stack(1, 3, 5, 4)
    with pytest.raises(UserError, match="larger damping"):
        scores_many(*train, 0.0, 0.0)


def test_a_last_layer_too_wide_to_factorise_is_refused_and_many_classes_stream():
    wide = nn.Sequential(nn.Linear(3, 32), nn.Linear(32, 1500))
    x, y = torch.randn(20, 3), torch.arange(20)
    with pytest.raises(UserError, match=r"a matrix of 49,467 rows, .* at most 15,000; use EKFAC"):
        LastLayerGGN(wide).fit(x, y)
    stack = Stack(wide, 2)
    with pytest.raises(UserError, match=r"at most 15,000; use EKFAC on each of list\(stack\), with .* in leave_out"):
        LastLayerGGN(stack).fit(x, y)
    assert [EKFAC(m, 0.1, leave_out=["0"]).fit(x, y).self_influence(x, y).shape for m in list(stack)] == [(20,)] * 2
    many = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 300)).double()
    whole = LastLayerGGN(many, 0.1).fit(x.double(), y)
    weights = softmax._WEIGHTS
    try:
        softmax._WEIGHTS = 20 * 1000
        parts = LastLayerGGN(many, 0.1).fit(x.double(), y)
    finally:
        softmax._WEIGHTS = weights
    torch.testing.assert_close(parts.self_influence(x, y), whole.self_influence(x, y))
