"""Every loss through every estimator: what torch.func gives by brute force, in float64."""

import pytest
import torch
from influence_oracle import arranged, flat
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev
from torch.nn import functional

from datalab.errors import UserError
from datalab.influence import CG, EKFAC, KFAC, DataInf, ExactGGN, ExactHessian, GradDot, LastLayerGGN
from datalab.influence.losses import BinaryCrossEntropy, CrossEntropy, Custom, SquaredError, Weighted

pytestmark = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
N, D, C, T = 11, 5, 3, 2
WEIGHT = (0.5, 2.0, 1.0)


def huber(f, y):
    return functional.huber_loss(f, y, reduction="none", delta=0.7).sum(1)


def poisson(f, y):
    return (f.exp() - y * f).sum(1)


def classes(g, *shape, high=C):
    return torch.randint(0, high, shape, generator=g)


def some_ignored(g, *shape):
    y = classes(g, *shape)
    y.view(-1)[1::4] = -100
    return y


def numbers(g, *shape):
    return torch.randn(shape, generator=g, dtype=torch.float64)


def probabilities(g, *shape):
    return torch.rand(shape, generator=g, dtype=torch.float64)


# name: (loss, outputs of an example, targets, what it is in torch's own words for f (C,) or (T, C) and one example's y)
LOSSES = {
    "cross-entropy": (CrossEntropy(), (C,), lambda g: classes(g, N), lambda f, y: functional.cross_entropy(f, y)),
    "class weights": (
        CrossEntropy(weight=WEIGHT), (C,), lambda g: classes(g, N),
        lambda f, y: functional.cross_entropy(f[None], y[None], torch.tensor(WEIGHT).double(), reduction="sum"),
    ),
    "label smoothing": (
        CrossEntropy(label_smoothing=0.2, weight=WEIGHT), (C,), lambda g: some_ignored(g, N),
        lambda f, y: functional.cross_entropy(
            f[None], y[None], torch.tensor(WEIGHT).double(), label_smoothing=0.2, reduction="sum"),
    ),
    "soft labels": (
        CrossEntropy(label_smoothing=0.1), (C,), lambda g: torch.softmax(numbers(g, N, C), 1),
        lambda f, y: functional.cross_entropy(f[None], y[None], label_smoothing=0.1, reduction="sum"),
    ),
    "an ignored label": (
        CrossEntropy(ignore_index=1), (C,), lambda g: classes(g, N),
        lambda f, y: functional.cross_entropy(f[None], y[None], ignore_index=1, reduction="sum"),
    ),
    "tokens": (
        CrossEntropy(), (T, C), lambda g: some_ignored(g, N, T),
        lambda f, y: functional.cross_entropy(f, y, reduction="sum"),
    ),
    "next tokens": (
        CrossEntropy(next_token=True), (T, C), lambda g: some_ignored(g, N, T),
        lambda f, y: functional.cross_entropy(f[:-1], y[1:], reduction="sum"),
    ),
    "squared error": (
        SquaredError(), (C,), lambda g: numbers(g, N, C), lambda f, y: functional.mse_loss(f, y, reduction="sum")),
    "squared error of one output": (
        SquaredError(), (1,), lambda g: numbers(g, N), lambda f, y: functional.mse_loss(f[0], y)),
    "binary": (
        BinaryCrossEntropy(), (1,), lambda g: classes(g, N, high=2),
        lambda f, y: functional.binary_cross_entropy_with_logits(f[0], y.double()),
    ),
    "many labels": (
        BinaryCrossEntropy(positive_weight=WEIGHT), (C,), lambda g: probabilities(g, N, C),
        lambda f, y: functional.binary_cross_entropy_with_logits(
            f, y, pos_weight=torch.tensor(WEIGHT).double(), reduction="sum"),
    ),
    "example weights": (
        Weighted(CrossEntropy()), (C,), lambda g: (classes(g, N), probabilities(g, N)),
        lambda f, y: functional.cross_entropy(f, y[0]) * y[1],
    ),
    "weighted tokens": (
        Weighted(CrossEntropy()), (T, C), lambda g: (some_ignored(g, N, T), probabilities(g, N)),
        lambda f, y: functional.cross_entropy(f, y[0], reduction="sum") * y[1],
    ),
    "a function": (Custom(poisson), (C,), lambda g: numbers(g, N, C), lambda f, y: (f.exp() - y * f).sum()),
}  # fmt: skip
DAMPING = 0.3


def problem(name: str):
    loss, outputs, targets, plain = LOSSES[name]
    g = torch.Generator().manual_seed(7)
    positions = len(outputs) > 1
    shape = [nn.Unflatten(1, (T, D - 2))] if positions else []
    width = D - 2 if positions else D
    model = nn.Sequential(*shape, nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, outputs[-1])).double().eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) / 2
    x = numbers(g, N, T * width if positions else D)
    return loss, model, x, targets(g), plain


def oracle(model, x, y, plain):
    """Each example's loss gradient (N, P), the Gauss-Newton matrix and the Hessian of the mean loss (P, P)."""
    parameters = {k: v.detach() for k, v in model.named_parameters()}
    rows = (lambda i: tuple(v[i] for v in y)) if isinstance(y, tuple) else (lambda i: y[i])
    gradients, ggn = [], 0
    for i in range(N):
        f = lambda p, i=i: functional_call(model, p, (x[i : i + 1],))[0]  # noqa: E731
        gradients.append(grad(lambda p, f=f, i=i: plain(f(p), rows(i)))(parameters))
        of_outputs = hessian(lambda z, i=i: plain(z, rows(i)))(f(parameters))
        c = f(parameters).numel()
        jacobian = {k: v.reshape(c, *v.shape[-parameters[k].dim() :]) for k, v in jacrev(f)(parameters).items()}
        j = flat(arranged(model, jacobian))
        ggn = ggn + j.T @ of_outputs.reshape(c, c) @ j
    stacked = {k: torch.stack([g[k] for g in gradients]) for k in parameters}
    return flat(arranged(model, stacked)), ggn / N


def close(ours, wanted):
    torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-9 * float(wanted.abs().max()) + 1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_values_gradients_and_curvature_are_torchs(name):
    loss, model, x, y, plain = problem(name)
    f = model(x).detach()
    y = loss.checked("x, y", y, f.shape[1:])
    first = (lambda v, i: tuple(part[i] for part in v)) if isinstance(y, tuple) else (lambda v, i: v[i])
    given = problem(name)[3]  # as the caller has it
    wanted = torch.stack([plain(f[i], first(given, i)) for i in range(N)])
    close(loss.value(f, y), wanted)
    slopes = torch.stack([grad(lambda z, i=i: plain(z, first(given, i)))(f[i]) for i in range(N)])
    close(loss.gradient(f, y), slopes)
    bends = torch.stack([hessian(lambda z, i=i: plain(z, first(given, i)))(f[i]) for i in range(N)])
    squares = [c.flatten(1)[:, :, None] * c.flatten(1)[:, None] for c in loss.curvature(f, y)]
    assert len(squares) == f.shape[1:].numel()
    close(sum(squares), bends.reshape(N, f[0].numel(), -1))


@pytest.mark.parametrize("name", LOSSES)
def test_a_sampled_cotangents_mean_square_is_the_curvature(name):
    loss, model, x, y, _ = problem(name)
    f = model(x).detach()
    y = loss.checked("x, y", y, f.shape[1:])
    exact = sum(c.flatten(1)[:, :, None] * c.flatten(1)[:, None] for c in loss.curvature(f, y))
    draws = 1000
    uniforms = torch.rand(draws, N, loss.draws(f.shape[1:]), generator=torch.Generator().manual_seed(1)).double()
    sampled = torch.stack([loss.sampled(f, y, u).flatten(1) for u in uniforms])
    mean = torch.einsum("sni,snj->nij", sampled, sampled) / draws
    spread = torch.einsum("sni,snj->nij", sampled.square(), sampled.square()) / draws
    assert bool(((mean - exact).abs() <= 6 * (spread / draws).sqrt() + 1e-9).all())


@pytest.mark.parametrize("name", LOSSES)
def test_exact_curvature_is_exact_for_every_loss(name):
    loss, model, x, y, plain = problem(name)
    g, ggn = oracle(model, x, y, plain)
    inverse = torch.linalg.inv(ggn + DAMPING * torch.eye(len(ggn), dtype=torch.float64))
    for kind, options in ((ExactGGN, {}), (CG, {"tolerance": 1e-12})):
        ours = kind(model, DAMPING, loss=loss, **options).fit(x, y)
        close(ours.self_influence(x, y), (g @ inverse * g).sum(1))
        close(ours.influence_on(x, y, x, y), -(g @ inverse @ g.mean(0)))
        close(ours.pairwise(x, y, x, y), -(g @ inverse @ g.T))
    close(GradDot(model, loss=loss).fit(x, y).self_influence(x, y), g.square().sum(1))
    if name in ("cross-entropy", "tokens", "squared error", "a function"):
        parameters = dict(model.named_parameters())
        rows = [tuple(v[i] for v in y) if isinstance(y, tuple) else y[i] for i in range(N)]

        def mean(p):
            return sum(plain(functional_call(model, p, (x[i : i + 1],))[0], rows[i]) for i in range(N)) / N

        of_mean = grad(mean)
        for v in g[:2]:
            direction, start = {}, 0
            for layer in (m for m in model if isinstance(m, nn.Linear)):
                prefix = next(k for k, p in parameters.items() if p is layer.weight).removesuffix("weight")
                matrix = v[start : (start := start + layer.weight.numel() + layer.bias.numel())].view(
                    len(layer.bias), -1
                )
                direction |= {f"{prefix}weight": matrix[:, :-1], f"{prefix}bias": matrix[:, -1]}
            values = {k: p.detach() for k, p in parameters.items()}
            direction = {k: direction[k].contiguous() for k in values}
            _, along = torch.func.jvp(of_mean, (values,), (direction,))
            wanted = flat(arranged(model, {k: a[None] for k, a in along.items()}))[0]
            ours = CG(model, DAMPING, loss=loss, curvature="hessian").fit(x, y)._operator.product(v[None, None])
            close(ours[0, 0], wanted)


@pytest.mark.parametrize("name", LOSSES)
def test_the_last_layers_curvature_is_exact_for_every_loss_on_one_row_of_outputs(name):
    loss, model, x, y, plain = problem(name)
    if name.endswith("tokens"):
        with pytest.raises(UserError, match=r"LastLayerGGN takes outputs \(n, C\)"):
            LastLayerGGN(model, DAMPING, loss=loss).fit(x, y)
        return
    g, ggn = oracle(model, x, y, plain)
    last = slice(len(ggn) - sum(p.numel() for p in model[-1].parameters()), None)
    g, ggn = g[:, last], ggn[last, last]
    inverse = torch.linalg.inv(ggn + DAMPING * torch.eye(len(ggn), dtype=torch.float64))
    ours = LastLayerGGN(model, DAMPING, loss=loss).fit(x, y)
    close(ours.self_influence(x, y), (g @ inverse * g).sum(1))
    close(ours.influence_on(x, y, x, y), -(g @ inverse @ g.mean(0)))
    close(ours.newton_gain_, g.mean(0) @ inverse @ g.mean(0) / 2)
    automatic = LastLayerGGN(model, loss=loss).fit(x, y)
    assert automatic.damping_ == pytest.approx(1e-3 * float(ggn.diagonal().mean()), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.endswith("tokens")])
def test_the_last_layer_of_a_model_in_float32_is_scored_for_every_loss(name):
    """Before: RuntimeError, for all but cross-entropy."""
    loss, model, x, y, _ = problem(name)
    wanted = LastLayerGGN(model, DAMPING, loss=loss).fit(x, y)
    wanted = wanted.self_influence(x, y), wanted.influence_on(x, y, x, y), wanted.leave_one_out(x, y, x, y)
    ours = LastLayerGGN(model.float(), DAMPING, loss=loss).fit(x, y)
    found = ours.self_influence(x, y), ours.influence_on(x, y, x, y), ours.leave_one_out(x, y, x, y)
    for scores, exact in zip(found, wanted, strict=True):
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def kronecker(model, x, loss, y, kfac: bool):
    """(H + d I)^-1 from the definitions, with autograd's own gradients for every cotangent of the loss."""
    f = model(x)
    y = loss.checked("x, y", y, f.shape[1:])
    linear = [m for m in model if isinstance(m, nn.Linear)]
    inputs, outputs = {}, {}
    handles = [
        m.register_forward_hook(lambda m, a, out: (inputs.__setitem__(m, a[0]), outputs.__setitem__(m, out))[0])
        for m in linear
    ]
    f = model(x)
    for handle in handles:
        handle.remove()
    gradients = {m: [] for m in linear}
    for cotangent in loss.curvature(f.detach(), y):
        found = torch.autograd.grad(f, [outputs[m] for m in linear], cotangent, retain_graph=True)
        for m, g in zip(linear, found, strict=True):
            gradients[m].append(g.reshape(N, -1, g.shape[-1]))
    blocks = []
    live = torch.stack([torch.stack(gradients[m]).any(0).any(-1) for m in linear]).any(0)  # the loss needs no other
    for m in linear:
        a = inputs[m].reshape(N, -1, inputs[m].shape[-1])
        a = torch.cat([a, torch.ones_like(a[..., :1])], 2).detach() * live[..., None]
        g = torch.stack(gradients[m])
        a_values, q_a = torch.linalg.eigh(torch.einsum("nti,ntj->ij", a, a) / N)
        g_values, q_g = torch.linalg.eigh(torch.einsum("cnti,cntj->ij", g, g) / N)
        if kfac:
            values = g_values[:, None] * a_values[None] * N / live.sum()
        else:
            per_example = torch.einsum("cnto,nti->cnoi", g, a)
            values = (q_g.T @ per_example @ q_a).square().sum(0).mean(0)
        basis = torch.kron(q_g, q_a)
        blocks.append(basis @ torch.diag(1 / (values.flatten() + DAMPING)) @ basis.T)
    return torch.block_diag(*blocks)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("name", LOSSES)
def test_kronecker_curvature_is_its_definition_for_every_loss(name, kind):
    loss, model, x, y, plain = problem(name)
    g, _ = oracle(model, x, y, plain)
    inverse = kronecker(model, x, loss, y, kind is KFAC)
    ours = kind(model, DAMPING, loss=loss).fit(x, y)
    close(ours.self_influence(x, y), (g @ inverse * g).sum(1))
    close(ours.influence_on(x, y, x, y), -(g @ inverse @ g.mean(0)))


@pytest.mark.parametrize("kind", [EKFAC, KFAC, ExactGGN, ExactHessian, DataInf, CG, GradDot, LastLayerGGN])
def test_equal_weights_scale_gradients_and_curvature(kind):
    """With every weight 3 and three times the damping, influence is three times as much (GradDot's nine times)."""
    _, model, x, y, _ = problem("cross-entropy")
    damping = () if kind is GradDot else (2.0,)
    tripled = () if kind is GradDot else (2.0 * (9 if kind is DataInf else 3),)
    plain = kind(model, *damping).fit(x, y).self_influence(x, y)
    weights = torch.full((N,), 3.0)
    threefold = (
        kind(model, *tripled, loss=Weighted(CrossEntropy())).fit(x, (y, weights)).self_influence(x, (y, weights))
    )
    close(threefold, plain * {GradDot: 9, DataInf: 1}.get(kind, 3))


@pytest.mark.parametrize("kind", [EKFAC, KFAC, ExactGGN, LastLayerGGN])
def test_examples_of_no_weight_are_as_if_they_were_not_there(kind):
    """But for n: with as many of them as there are others, the curvature is half."""
    _, model, x, y, _ = problem("cross-entropy")
    alone = kind(model, DAMPING).fit(x, y).self_influence(x, y)
    weights = torch.ones(2 * N).index_fill(0, torch.arange(N, 2 * N), 0)
    beside = kind(model, DAMPING / 2, loss=Weighted(CrossEntropy())).fit(
        torch.cat([x, 100 * x]), (torch.cat([y, y]), weights)
    )
    close(beside.self_influence(x, (y, weights[:N])) / 2, alone)


@pytest.mark.parametrize("name", ["class weights", "tokens", "many labels", "example weights"])
def test_results_do_not_depend_on_the_batch_size(name):
    loss, model, x, y, _ = problem(name)
    for kind in (EKFAC, ExactGGN):
        whole, small = (kind(model, DAMPING, loss=loss, batch_size=b).fit(x, y) for b in (512, 3))
        close(small.pairwise(x, y, x, y), whole.pairwise(x, y, x, y))
    sampled = [EKFAC(model, DAMPING, loss=loss, fisher="sampled", samples=2, batch_size=b).fit(x, y) for b in (512, 3)]
    close(sampled[1].self_influence(x, y), sampled[0].self_influence(x, y))


REFUSED = {
    "a class out of range": (CrossEntropy(), lambda y: y + 1, r"labels must lie in 0\.\.2, got 1\.\.3"),
    "class weights of another length": (CrossEntropy(weight=(1, 2)), lambda y: y, "need one a class, got 2 for 3"),
    "soft labels that do not sum to 1": (
        CrossEntropy(), lambda y: functional.one_hot(y, C).double() * 2, "soft labels must be probabilities"),
    "one label for three regressions": (SquaredError(), lambda y: y, r"y must be \(n, 3\), as the outputs"),
    "a target that is not finite": (SquaredError(), lambda y: torch.full((N, C), torch.nan), "must be finite"),
    "a label of 2 for binary cross-entropy": (
        BinaryCrossEntropy(), lambda y: torch.full((N, C), 2), r"must lie in \[0, 1\], got 2\.\.2"),
    "no weights": (Weighted(CrossEntropy()), lambda y: y, r"pair of targets and weights"),
    "a negative weight": (
        Weighted(CrossEntropy()), lambda y: (y, -torch.ones(N)), r"finite numbers of at least 0"),
    "a function of the mean": (Custom(lambda f, y: f.square().mean()), lambda y: y, r"must give \(n,\) losses"),
    "a function that is not convex": (Custom(lambda f, y: -f.square().sum(1)), lambda y: y, "not convex"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_loss_does_not_take_is_refused_in_one_line(case):
    loss, change, words = REFUSED[case]
    _, model, x, y, _ = problem("cross-entropy")
    with pytest.raises(UserError, match=words) as caught:
        EKFAC(model, DAMPING, loss=loss).fit(x, change(y))
    assert "\n" not in str(caught.value)
