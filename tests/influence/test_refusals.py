"""What the influence code refuses, in one line that names it, and what it warns of."""

import threading
import warnings

import numpy as np
import pytest
import torch
from influence_oracle import problem
from torch import nn
from torch.nn.utils import prune

from datalab import retraining
from datalab.errors import UserError
from datalab.influence import (
    CG,
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    DataInf,
    ExactGGN,
    ExactHessian,
    GradCos,
    GradDot,
    InfluenceWarning,
    LastLayerGGN,
    LiSSA,
    TracIn,
    losses,
    trak,
)
from datalab.stack import Stack

KINDS = {
    "ExactGGN": ExactGGN,
    "ExactHessian": lambda m, d=5.0, **k: ExactHessian(m, d, **k),
    "LastLayerGGN": LastLayerGGN,
    "KFAC": KFAC,
    "EKFAC": EKFAC,
    "DataInf": DataInf,
    "CG": CG,
    "LiSSA": lambda m, *damping, **k: LiSSA(m, *damping, depth=30, **k),
    "Arnoldi": Arnoldi,
    "GradDot": GradDot,
    "GradCos": GradCos,
    "TracIn": lambda m, **k: TracIn([m], [0.1], **k),
    "TRAK": lambda m, **k: TRAK([m], 0.1, dimensions=8, **k),
}
quiet = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def conv(**options) -> list[nn.Module]:
    return [nn.Unflatten(1, (2, 2, 3)), nn.Conv2d(2, 4, (2, 3), **options), nn.Flatten()]


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


def weight_normed(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


LAYERS = {
    "a recurrent layer": ([nn.LSTM(12, 4)], r"not taken: '0' \(LSTM\); taken are Linear.*leave_out=\['0'\] leaves it"),
    "layers of many kinds": (
        [nn.LSTM(12, 4), nn.Linear(4, 4), nn.PReLU(), nn.Bilinear(2, 2, 4)],
        r"not taken: '0' \(LSTM\), '2' \(PReLU\), '3' \(Bilinear\);.*"
        r"leave_out=\['0', '2', '3'\] leaves them out",
    ),
    "a pruned layer": ([pruned(nn.Linear(12, 4))], r"'0' \(Linear, pruned.*prune.remove.*leave_out=\['0'\]"),
    "an old weight norm": ([weight_normed(nn.Linear(12, 4))], r"'0' \(Linear: .*remove_weight_norm.*leave_out=\['0'\]"),
    "a weight norm": (
        [nn.utils.parametrizations.weight_norm(nn.Linear(12, 4))],
        r"'0' \(ParametrizedLinear: .*remove_parametrizations.*leave_out=\['0'\]",
    ),
    "batch statistics": ([nn.Linear(12, 4), nn.BatchNorm1d(4, track_running_stats=False).eval()], "layer '1' .* mixes"),
    "dropout in train mode": (
        [nn.Dropout(), nn.Linear(12, 4)],
        r"layer '0' \(Dropout.* is in train mode; call model.eval",
    ),
    "nothing to differentiate": ([nn.ReLU()], "no layer with parameters"),
    "an embedding that renormalises": ([nn.Embedding(3, 4, max_norm=1.0)], "max_norm"),
    "logits that are no matrix": ([nn.Unflatten(1, (3, 4)), nn.Linear(4, 4)], r"need y \(n, 3\)"),
}


@quiet
@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("build", [ExactGGN, EKFAC, DataInf, CG, GradDot])
def test_a_layer_that_cannot_be_taken_is_refused_by_name(build, case):
    layers, words = LAYERS[case]
    _, train, _ = problem()
    with pytest.raises(UserError, match=words) as caught:
        build(nn.Sequential(*layers).double()).fit(*train)
    assert "\n" not in str(caught.value)


class Transposed(nn.Module):
    """A layer that takes positions before examples."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.first(x.view(-1, 3, 4).transpose(0, 1)).mean(0))


@pytest.mark.parametrize("n", [2, 3])
def test_a_layer_whose_examples_do_not_come_first_is_refused_even_where_the_numbers_fit(n):
    words = {2: r"layer 'first' takes \(3, 2, 4\) for 2 examples; they must", 3: "examples change places, .* 'first'"}
    with pytest.raises(UserError, match=words[n]):
        EKFAC(Transposed()).fit(torch.randn(n, 12), torch.tensor([0, 1, 2][:n]))


class Elsewhere(nn.Module):
    """A model of two layers, of which ``use`` makes the logits."""

    def __init__(self, use):
        super().__init__()
        self.a, self.b, self.use = nn.Linear(12, 12), nn.Linear(12, 4), use

    def forward(self, x):
        return self.use(self, x)


OUTSIDE = {
    "a weight used by hand": (
        lambda m, x: m.b(m.a(x) + nn.functional.linear(x, m.a.weight)),
        r"parameters 'a.weight' act outside .*leave_out=\['a.weight'\]",
    ),
    "a penalty among the logits": (
        lambda m, x: m.b(m.a(x)) + m.b.weight.sum() * torch.arange(4),
        "parameters 'b.weight' act outside",
    ),
    "a detached trunk": (lambda m, x: m.b(m.a(x).detach()), "layer 'a': without a path to the logits"),
    "detached logits": (lambda m, x: m.b(m.a(x)).detach(), "logits are cut off"),
    "examples that are mixed": (lambda m, x: m.b(m.a(x) - m.a(x).mean(0)), "mixes the examples of a batch"),
    "batch statistics": (lambda m, x: m.b(m.a(x - x.mean(0, keepdim=True))), "mixes the examples of a batch"),
    "functional dropout": (lambda m, x: m.b(nn.functional.dropout(m.a(x), 0.5)), "its forward pass is random"),
    "two outputs": (lambda m, x: (m.b(m.a(x)), 0), "returns a tuple, and one tensor of logits is needed"),
    "one class": (lambda m, x: m.b(m.a(x))[:, :1], "at least 2"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_model_that_a_tape_would_score_wrongly_is_refused(case):
    use, words = OUTSIDE[case]
    _, train, _ = problem()
    with pytest.raises(UserError, match=words) as caught:
        EKFAC(Elsewhere(use).double()).fit(*train)
    assert "\n" not in str(caught.value)


def test_a_half_precision_model_is_refused_unless_a_dtype_is_given():
    model, (x, y), _ = problem()
    with pytest.raises(UserError, match="computes in bfloat16; give dtype"):
        EKFAC(model.bfloat16()).fit(x.bfloat16(), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        EKFAC(model, dtype=torch.float32).fit(x.bfloat16(), y)


def test_attention_with_additions_to_its_keys_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.head = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True), nn.Linear(4, 4)

        def forward(self, x):
            x = x.view(-1, 3, 4)
            return self.head(self.attend(x, x, x)[0].mean(1))

    with pytest.raises(UserError, match=r"'attend' \(MultiheadAttention with add_bias_kv"):
        EKFAC(Model()).fit(torch.randn(3, 12), torch.tensor([0, 1, 2]))


def test_what_is_left_out_must_be_there_and_not_all():
    model, train, _ = problem()
    with pytest.raises(UserError, match="the model has no '5'; "):
        EKFAC(model, leave_out=["5"]).fit(*train)
    with pytest.raises(UserError, match="no layer with parameters"):
        EKFAC(model, leave_out=["0", "2"]).fit(*train)


def test_lastlayerggn_refuses_a_model_that_does_not_end_in_a_linear_layer():
    _, train, _ = problem()
    with pytest.raises(UserError, match="the output of a Linear layer"):
        LastLayerGGN(nn.Sequential(nn.Linear(12, 4), nn.Tanh()).double()).fit(*train)


@pytest.mark.parametrize("build", [ExactGGN, ExactHessian])
def test_a_full_matrix_is_refused_above_15_000_parameters_and_the_alternatives_named(build):
    model, train = nn.Linear(9, 1501), (torch.zeros(2, 9), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=r"15,010 parameters.*at most 15,000; use EKFAC$"):
        build(model).fit(*train)
    assert EKFAC(model, 1.0).fit(*train).self_influence(*train).shape == (2,)


@quiet
def test_a_projection_that_would_not_fit_is_refused_and_the_largest_that_does_named(monkeypatch):
    monkeypatch.setattr(trak, "MAX_PROJECTION", 1 << 19)
    model, train = nn.Linear(200, 10), (torch.zeros(2, 200), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=r"dimensions: 512 x 2,010 parameters.*at most 260"):
        TRAK([model], dimensions=512).fit(*train)
    assert TRAK([model], 1.0).fit(*train)._members[0].projection().shape == (260, 2010)


@quiet
def test_a_layer_without_variance_scores_finitely_under_automatic_damping(kind):
    model, (x, y), _ = problem("an MLP without biases")
    model[0].weight.data[0] = 0
    assert torch.isfinite(kind(model).fit(x, y).self_influence(x, y)).all()


@quiet
@pytest.mark.parametrize("build", [ExactGGN, LastLayerGGN, KFAC, EKFAC, DataInf, ExactHessian, Arnoldi])
def test_a_singular_curvature_without_damping_is_refused(build):
    model, (x, y), _ = problem()
    with pytest.raises(UserError, match="damping"):
        build(model, damping=0).fit(x[:2] * 0, y[:2])


BAD = {
    "n mismatch": (lambda x, y: (x, y[:-1]), "need x"),
    "labels out of range": (lambda x, y: (x, y + 2), r"labels must lie in 0\.\.3"),
    "labels below 0": (lambda x, y: (x, y - 5), r"labels must lie in 0\.\.3"),
    "labels that are no integers": (lambda x, y: (x, y.double()), "integer"),
    "NaN everywhere": (lambda x, y: (x * float("nan"), y), "x must be finite|x must be finite"),
    "one NaN in the last row": (lambda x, y: (torch.cat([x[:-1], x[-1:] * float("nan")]), y), "x must be finite"),
    "infinity": (lambda x, y: (x / 0, y), "must be finite"),
    "nothing": (lambda x, y: (x[:0], y[:0]), "n > 0"),
    "the wrong width": (lambda x, y: (x[:, :7], y), r"does not take an example of shape \(7,\), float64"),
    "the wrong dtype": (lambda x, y: (x.to(torch.uint8), y), "does not take an example of shape .*uint8"),
    "no labels": (lambda x, y: (x, None), "y must be a tensor or an array|y must be integer|need x"),
    "labels in words": (lambda x, y: (x, ["a"] * len(x)), "y must be a tensor or an array of numbers"),
}


@quiet
@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused_in_one_line(kind, case):
    change, words = BAD[case]
    model, train, _ = problem()
    with pytest.raises(UserError, match=words) as caught:
        kind(model).fit(*change(*train))
    assert "\n" not in str(caught.value)
    fitted = kind(model).fit(*train)
    with pytest.raises(UserError, match=words):
        fitted.influence_on(*train, *change(*train))


@quiet
@pytest.mark.parametrize("build", [KFAC, EKFAC])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_that_are_0_but_for_rounding_need_a_damping(build, dtype):
    model, (x, y), _ = problem()
    with pytest.raises(UserError, match="an eigenvalue of the curvature is 0"):
        build(model.to(dtype), 0).fit(x[:5].to(dtype), y[:5])
    build(model, 1e-12).fit(x[:5], y[:5])


@quiet
def test_another_damping_is_checked_like_the_first():
    model, train, _ = problem()
    with pytest.raises(UserError, match="call fit"):
        EKFAC(model).redamped(0.1)
    for kind in (EKFAC, ExactGGN, LastLayerGGN, DataInf, CG):
        estimator = kind(model, 0.1).fit(*train)
        for damping in (float("nan"), -1, "atuo"):
            with pytest.raises(UserError, match="damping: must be 'auto' or a number"):
                estimator.redamped(damping)


@quiet
def test_a_failed_fit_leaves_no_scores_to_be_had():
    model, (x, y), _ = problem()
    estimator = EKFAC(model).fit(x, y)
    with pytest.raises(UserError):
        estimator.fit(x * float("nan"), y)
    with pytest.raises(UserError, match="call fit"):
        estimator.self_influence(x, y)


def test_a_diverged_model_is_refused():
    model, train, _ = problem()
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="model: its logits are not finite"):
        EKFAC(model).fit(*train)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: EKFAC(m, -1), "damping: must be 'auto' or a number of at least 0, got -1"),
        (lambda m: EKFAC(m, "atuo"), "damping"),
        (lambda m: EKFAC(m, float("nan")), "damping"),
        (lambda m: EKFAC(m, None), "damping"),
        (lambda m: EKFAC(m, True), "damping"),
        (lambda m: EKFAC(m, np.ones(2)), "damping"),
        (lambda m: EKFAC(m, l2=-1), "l2"),
        (lambda m: EKFAC(m, l2="0.1"), "l2"),
        (lambda m: EKFAC(m, batch_size=0), "batch_size"),
        (lambda m: EKFAC(m, batch_size=2.5), "batch_size"),
        (lambda m: EKFAC(m, leave_out="0"), r"leave_out: must be a list of names, got '0'; \['0'\] is one"),
        (lambda m: EKFAC(m, dtype=torch.float16), "dtype"),
        (lambda m: EKFAC(m, samples=0), "samples"),
        (lambda m: EKFAC(m, fisher="exatc"), "fisher: must be one of auto, exact, sampled, empirical, got 'exatc'"),
        (lambda m: CG(m, curvature="fisher"), "curvature"),
        (lambda m: CG(m, tolerance=0), "tolerance"),
        (lambda m: LiSSA(m, depth=0), "depth"),
        (lambda m: Arnoldi(m, rank=9, iterations=3), "rank"),
        (lambda m: TracIn([m], [0.1, 0.2]), "learning_rates: need one per checkpoint, got 2 for 1"),
        (lambda m: TracIn([m], [0.0]), "learning_rates: must be above 0"),
        (lambda m: TRAK([]), "models"),
        (lambda m: TRAK([m], dimensions=0), "dimensions"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_construction(call, words):
    with pytest.raises(UserError, match=words):
        call(problem()[0])


def test_scores_before_fit_are_refused(kind):
    model, train, _ = problem()
    with pytest.raises(UserError, match="call fit"):
        kind(model).self_influence(*train)


def caught(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in found if issubclass(w.category, InfluenceWarning)]


def converged(l2: float = 0.01):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g).double(), torch.randint(0, 3, (60,), generator=g)
    return retraining.fit_softmax(x, y, 3, l2), x, y


@pytest.mark.parametrize("build", [ExactGGN, ExactHessian, LastLayerGGN, KFAC, EKFAC, DataInf, CG])
def test_a_model_that_is_no_optimum_is_warned_of_and_one_that_is_not(build):
    model, x, y = converged()
    estimator = build(model, 0.01, l2=0.01)
    assert caught(lambda: estimator.fit(x, y)) == []
    assert estimator.newton_gain_ == pytest.approx(0, abs=1e-10)
    model.weight.data.neg_()
    (message,) = caught(lambda: estimator.fit(x, y))
    assert "not converged" in message
    assert "\n" not in message
    assert "weight decay" not in message
    assert "to be given as l2" in caught(lambda: build(model, 0.01).fit(x, y))[0]


def test_no_loss_is_said_to_fall_by_more_than_it_has():
    model, x, y = converged()
    model.weight.data.mul_(-50)  # sure and wrong: the curvature is that of a far gentler slope
    estimator = ExactGGN(model, 1e-4)
    (message,) = caught(lambda: estimator.fit(x, y))
    assert estimator.newton_gain_ > nn.functional.cross_entropy(model(x), y)
    assert "by more than it has, so" in message


def test_tokens_that_are_their_own_targets_are_warned_of_where_the_loss_shifts_none():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)).double()
    x = torch.randint(0, 7, (20, 5))
    shifts = losses.CrossEntropy(next_token=True)
    (message,) = caught(lambda: GradDot(model).fit(x, x))
    assert "each token's target is that token itself" in message
    padded = x.masked_fill(torch.arange(5) > 3, -100)
    assert len(caught(lambda: GradDot(model).fit(x, padded))) == 1  # padding is no target
    assert caught(lambda: GradDot(model, loss=shifts).fit(x, x)) == []
    assert caught(lambda: GradDot(model).fit(x, x.roll(-1, 1))) == []
    assert caught(lambda: GradDot(model).fit(x, torch.ones_like(x))) == []


def test_the_newton_gain_is_what_a_newton_step_gains():
    model, x, y = converged()
    best = float(nn.functional.cross_entropy(model(x), y) + 0.005 * sum(p.square().sum() for p in model.parameters()))
    model.weight.data += 0.03
    here = float(nn.functional.cross_entropy(model(x), y) + 0.005 * sum(p.square().sum() for p in model.parameters()))
    estimator = ExactGGN(model, 0.01, l2=0.01).fit(x, y)
    assert float(estimator.newton_gain_) == pytest.approx(here - best, rel=0.05)


def test_an_indefinite_hessian_is_warned_of():
    model, train, val = problem()
    messages = caught(lambda: ExactHessian(model, 0.05).fit(*train))
    assert any("indefinite" in m and "eigenvalues are negative" in m for m in messages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = CG(model, 1e-3, curvature="hessian", iterations=50).fit(*train)
    assert any("indefinite" in m for m in caught(lambda: estimator.influence_on(*train, *val)))


@quiet
def test_a_series_on_an_indefinite_curvature_is_refused():
    model, train, _ = problem()
    with pytest.raises(UserError, match="diverges"):
        LiSSA(model, 1e-3, curvature="hessian", depth=50).fit(*train)


@quiet
def test_iterations_that_do_not_suffice_are_warned_of():
    model, train, val = problem()
    with pytest.warns(InfluenceWarning, match="leave a relative residual"):
        CG(model, 1e-6, iterations=2).fit(*train).influence_on(*train, *val)


# --- what was silently wrong, each by its smallest case ------------------------------------------------------------


def small(classes: int = 3, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).to(dtype)


def examples(n: int = 40, classes: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 4, generator=generator).to(dtype), torch.randint(0, classes, (n,), generator=generator)


class Positions(nn.Module):
    """The mean of its network over the positions of (m, t, 4)."""

    def __init__(self):
        super().__init__()
        self.of_one = small()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of_one(x).mean(1)


@quiet
def test_examples_of_one_position_meet_those_of_several():
    """A product over pairs took every batch for one of a single position, as the first was."""
    model, generator = Positions(), torch.Generator().manual_seed(2)
    short, long = (torch.randn(n, t, 4, generator=generator).double() for n, t in ((8, 1), (6, 5)))
    y = torch.arange(14) % 3

    def gradients(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        of_each = (nn.functional.cross_entropy(model(a[None]), b[None]) for a, b in zip(x, y, strict=True))
        parts = (torch.autograd.grad(loss, list(model.parameters())) for loss in of_each)
        return torch.stack([torch.cat([g.flatten() for g in part]) for part in parts])

    wanted = -gradients(long, y[8:]) @ gradients(short, y[:8]).T
    torch.testing.assert_close(GradDot(model).fit(short, y[:8]).pairwise(short, y[:8], long, y[8:]), wanted)
    items = [*zip(short, y[:8], strict=True), *zip(long, y[8:], strict=True)]

    def padded(batch: list) -> tuple[torch.Tensor, torch.Tensor]:
        return nn.utils.rnn.pad_sequence([a for a, _ in batch], batch_first=True), torch.stack([b for _, b in batch])

    ragged = torch.utils.data.DataLoader(items, collate_fn=padded)
    exact, cg = (kind(model, 0.3, batch_size=1).fit(ragged).self_influence(ragged) for kind in (ExactGGN, CG))
    torch.testing.assert_close(exact, cg, rtol=1e-6, atol=1e-9)


class Masked(nn.Module):
    """Four logits, of which the last is shut out by -1e4; ``hidden`` is what becomes of the hidden layer."""

    def __init__(self, hidden=lambda h: h):
        super().__init__()
        self.network, self.hidden, self.temperature = small(4, torch.float32), hidden, 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, tanh, last = self.network
        logits = self.temperature * last(self.hidden(tanh(first(x))))
        return logits.masked_fill(torch.arange(4) == 3, -1e4)


@quiet
def test_a_masked_logit_hides_neither_chance_nor_mixing_nor_a_change():
    x, y = examples(classes=3, dtype=torch.float32)
    with pytest.raises(UserError, match="random"):
        GradDot(Masked(lambda h: nn.functional.dropout(h, 0.5))).fit(x, y)
    with pytest.raises(UserError, match="mixes the examples"):
        GradDot(Masked(lambda h: h + 0.3 * (h > h.mean(0)))).fit(x, y)
    model = Masked()
    fitted = GradDot(model).fit(x, y)
    model.temperature = 3.0
    with pytest.raises(UserError, match="changed after fit"):
        fitted.self_influence(x, y)


class Trimmed(nn.Module):
    """Texts cut to the longest of their batch, then averaged over what is left."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        longest = int((tokens != 0).sum(1).max())
        return self.last(torch.tanh(self.embedding(tokens[:, :longest])).mean(1))


def test_a_model_that_cuts_to_its_batchs_longest_text_mixes():
    lengths = torch.arange(200) % 4 + 3
    tokens = (torch.arange(1200).view(200, 6) % 6 + 1) * (torch.arange(6) < lengths[:, None])
    with pytest.raises(UserError, match="mixes the examples"):
        GradDot(Trimmed()).fit(tokens, torch.arange(200) % 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda f, y: nn.functional.cross_entropy(f, y, reduction="none") / (1.0 + y).sum(),
        lambda f, y: nn.functional.cross_entropy(f - f.mean(0), y, reduction="none"),
    ],
    ids=["a mean over the batch", "centred"],
)
def test_a_loss_that_depends_on_the_batch_is_refused(function):
    with pytest.raises(UserError, match="depends on the others of its batch"):
        GradDot(small(), loss=losses.Custom(function)).fit(*examples()).self_influence(*examples())


def test_a_data_set_that_is_not_what_it_was_or_loses_examples_is_refused(kind):
    x, y = examples()

    class Read(torch.utils.data.Dataset):
        def __init__(self, read):
            self.read = read

        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, i: int):
            return self.read(i)

    with pytest.raises(UserError, match="another at each reading"):
        kind(small()).fit(Read(lambda i: (x[i] + torch.randn(4), y[i])))

    def fewer(items: list) -> list:
        return torch.utils.data.default_collate([item for item in items if item is not None])

    gaps = Read(lambda i: None if i in (3, 11) else (x[i], y[i]))
    with pytest.raises(UserError, match="items are collated to"):
        kind(small()).fit(torch.utils.data.DataLoader(gaps, collate_fn=fewer))


@quiet
def test_a_training_set_that_is_read_again_must_not_be_written_into(kind):
    x, y = examples()
    given, labels = x.numpy().copy(), y.clone()
    fitted = kind(small()).fit(given, labels)
    before = fitted.self_influence(x, y)
    given *= 1.5
    if isinstance(fitted, CG | DataInf | LiSSA):
        with pytest.raises(UserError, match="written into after fit"):
            fitted.self_influence(x, y)
    else:
        torch.testing.assert_close(fitted.self_influence(x, y), before, rtol=0, atol=0)


@quiet
def test_a_buffer_that_is_not_saved_is_part_of_the_model_and_a_complex_one_stays_complex():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)), persistent=False)
            self.last = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.view_as_real(x.to(self.turn.dtype) * self.turn).flatten(1))

    (x, y), model = examples(dtype=torch.float32), Table()
    wide = GradDot(model, dtype=torch.float64).fit(x, y).self_influence(x, y)
    fitted = GradDot(model).fit(x, y)
    torch.testing.assert_close(fitted.self_influence(x, y), wide.float())
    model.turn[3] *= 1.0 + 1e-5
    with pytest.raises(UserError, match=r"model: 'turn' changed after fit"):
        fitted.self_influence(x, y)


@quiet
def test_cosines_of_confident_models_are_cosines():
    model, (x, y) = small(), examples()
    with torch.no_grad():
        model[2].weight.mul_(400.0)
    y = model(x).argmax(1)
    cosines = GradCos(model).fit(x, y).pairwise(x, y, x, y).diagonal()
    own = GradDot(model).fit(x, y).self_influence(x, y)
    assert own.min() < 1e-25
    torch.testing.assert_close(cosines[own > 0], -torch.ones_like(cosines[own > 0]))


def test_what_is_no_model_a_third_item_and_a_path_that_is_none_are_one_line(tmp_path):
    x, y = examples()
    for model in (None, torch.tanh, [small()], small().state_dict()):
        with pytest.raises(UserError, match=r"must be a torch\.nn\.Module"):
            GradDot(model).fit(x, y)
    with pytest.raises(UserError, match=r"holds 3 things.*losses\.Weighted"):
        GradDot(small()).fit(torch.utils.data.TensorDataset(x, y, torch.arange(len(x))))
    with pytest.raises(UserError, match="cannot be written"):
        EKFAC(small(), 0.3).fit(x, y).save(tmp_path / "missing" / "e.safetensors")
    targets = y == 1
    assert GradDot(small(1), loss=losses.BinaryCrossEntropy()).fit(x, targets).self_influence(x, targets).min() >= 0
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

        def forward(self, rows: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
            return self.last(self.inner(rows, src_key_padding_mask=padded).mean(1))

    rows = {"rows": torch.randn(8, 5, 4), "padded": torch.arange(5) > torch.arange(8)[:, None] % 3 + 2}
    with pytest.raises(UserError, match="enable_nested_tensor=False"):
        GradDot(Encoder().eval()).fit(rows, torch.arange(8) % 3)
    with pytest.raises(UserError, match="enable_nested_tensor=False"):  # before: RuntimeError, no shape to be had
        LastLayerGGN(Encoder().eval()).fit(rows, torch.arange(8) % 3)


class Noisy(nn.Module):
    """DropPath at the end: each example's hidden layer is dropped as a whole, with a probability of .02."""

    def __init__(self, always: bool):
        super().__init__()
        self.first, self.last, self.always = nn.Linear(4, 5), nn.Linear(5, 3), always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.first(x))
        if self.always or self.training:
            hidden = hidden * torch.empty(len(x), 1).bernoulli_(0.98).to(x)
        return self.last(hidden)


@quiet
@pytest.mark.parametrize("always", [True, False])
def test_a_rarely_random_model_is_refused_whatever_the_seed(always):
    """Before: in two of twelve seeds no example of the sample was dropped."""
    x, y = examples()
    for seed in range(12):
        torch.manual_seed(seed)
        with pytest.raises(UserError, match=r"random .*call model\.eval\(\) first"):
            GradDot(Noisy(always).double().train(not always)).fit(x, y)
    if not always:
        GradDot(Noisy(always).double().eval()).fit(x, y)


@quiet
def test_a_model_that_draws_what_it_does_not_use_is_taken_in_eval_mode():
    """Layers that may be dropped in training often draw in eval mode as well."""

    class Draws(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept = torch.rand([]) > 0.5 or not self.training
            return super().forward(x) * kept

    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(Draws(4, 3)).double().eval(), examples()
    plain = nn.Sequential(nn.Linear(4, 3)).double()
    plain.load_state_dict(model.state_dict())
    wanted = GradDot(plain).fit(x, y).self_influence(x, y)
    torch.testing.assert_close(GradDot(model).fit(x, y).self_influence(x, y), wanted)
    with pytest.raises(UserError, match="random"):
        GradDot(model.train()).fit(x, y)


class TrimmedTagger(Trimmed):
    """Logits at each position up to the longest text's last."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        longest = int((tokens != 0).sum(1).max())
        return self.last(torch.tanh(self.embedding(tokens[:, :longest])))


def test_a_model_of_as_many_positions_as_its_batchs_longest_text_mixes():
    """Before: RuntimeError, for the halves of a sample could not be put together."""
    lengths = torch.where(torch.arange(12) == 5, 6, 4)
    tokens = (torch.arange(72).view(12, 6) % 6 + 1) * (torch.arange(6) < lengths[:, None])
    with pytest.raises(UserError, match="mixes the examples"):
        GradDot(TrimmedTagger()).fit(tokens, torch.zeros(12, 6, dtype=torch.long))


def list_of(x: torch.Tensor) -> torch.utils.data.Dataset:
    """A data set that is read, with targets of 0."""
    return torch.utils.data.Subset(torch.utils.data.TensorDataset(x, torch.zeros(len(x))), range(len(x)))


@quiet
def test_rounding_of_a_logit_near_0_is_no_mixing():
    """Before: an example run alone was compared with itself only, so one logit near 0 had to be right to its digits."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = 100 * torch.randn(16, 300, generator=generator)
        model = nn.Linear(300, 1)
        with torch.no_grad():
            model.bias -= model(x)[3]  # of about 100 terms of size 1
        fitted = GradDot(model, loss=losses.SquaredError()).fit(x, torch.zeros(16))
        GradDot(model, loss=losses.SquaredError()).fit(list_of(x))
        assert fitted.self_influence(x, torch.zeros(16)).min() >= 0


class Relative(losses.Loss):
    """A loss of one's own, over the mean of its batch."""

    def value(self, f, y):
        return losses.SquaredError().value(f, y) / (1.0 + y.abs().mean())

    def gradient(self, f, y):
        return losses.SquaredError().gradient(f, y) / (1.0 + y.abs().mean())

    def curvature(self, f, y):
        return losses.SquaredError().curvature(f, y)

    def sampled(self, f, y, uniforms):
        return losses.SquaredError().sampled(f, y, uniforms)

    def checked(self, name, y, outputs):
        return losses.SquaredError().checked(name, y, outputs)


@pytest.mark.parametrize("loss", [Relative(), losses.Weighted(Relative())])
def test_any_loss_that_is_not_ours_is_tried_example_by_example(loss):
    """Before: of Custom ones alone, by the first example of every batch."""
    x, _ = examples()
    y = torch.linspace(-1, 1, 120).view(40, 3).double()
    y = (y, torch.ones(40)) if isinstance(loss, losses.Weighted) else y
    with pytest.raises(UserError, match="depends on the others of its batch"):
        GradDot(small(), loss=loss).fit(x, y)


@quiet
def test_a_custom_loss_is_called_once_a_batch_in_a_pass():
    """Before: twice, and waited for."""
    (x, _), calls = examples(n=200), []

    def squared(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(len(f))
        return (f - y).square().sum(1)

    fitted = GradDot(small(), loss=losses.Custom(squared), batch_size=50).fit(x, torch.zeros(200, 3))
    calls.clear()
    fitted.self_influence(x, torch.zeros(200, 3))
    assert calls[-4:] == [50] * 4


def test_an_error_that_names_a_nested_tensor_is_the_models_own():
    """Before: told by its words, and cured by an option of nn.TransformerEncoder."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("needs a NestedTensor")

    with pytest.raises(UserError, match=r"does not take an example .*: needs a NestedTensor$"):
        GradDot(Model()).fit(*examples(dtype=torch.float32))


@quiet
@pytest.mark.parametrize("build", [EKFAC, ExactGGN, GradCos, LastLayerGGN, DataInf])
def test_examples_that_are_single_numbers_are_taken_by_a_model_that_takes_them(build):
    """Before: "need x (n, ...)"."""
    torch.manual_seed(0)
    model, tokens, y = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)), torch.arange(20) % 7, torch.arange(20) % 3
    column = nn.Sequential(nn.Flatten(), model[0], nn.Flatten(), model[1])
    scores = build(model, 0.1).fit(tokens, y).influence_on(tokens, y, tokens[:5], y[:5])
    wanted = build(column, 0.1).fit(tokens[:, None], y).influence_on(tokens[:, None], y, tokens[:5, None], y[:5])
    torch.testing.assert_close(scores, wanted)
    with pytest.raises(UserError, match=r"does not take an example of shape \(\), float64"):
        build(small(), 0.1).fit(torch.randn(9).double(), y[:9])


@quiet
def test_datainf_of_few_or_equal_examples_is_refused_where_rounding_is_all_that_is_left():
    """Before: at one example and a damping of 1e-6 a quarter off in float32, in silence."""
    x, y = examples(dtype=torch.float32)
    for x_train, y_train in ((x[:1], y[:1]), (x[:1].expand(6, 4), y[:1].expand(6))):
        with pytest.raises(UserError, match=r"float32 loses the scores; a larger one or dtype=torch\.float64 would do"):
            DataInf(small(dtype=torch.float32), 1e-6).fit(x_train, y_train).self_influence(x_train, y_train)
        precise = DataInf(small(dtype=torch.float32), 1e-6, dtype=torch.float64).fit(x_train, y_train)
        gradients = GradDot(small()).fit(x_train, y_train).self_influence(x_train, y_train, by_layer=True)
        wanted = sum(g / (1e-6 + g) for g in gradients.values())  # (g g' + d I)^-1 g = g / (d + |g|^2)
        torch.testing.assert_close(precise.self_influence(x_train, y_train), wanted, rtol=1e-6, atol=0)
        with pytest.raises(UserError, match="float64 loses the scores; a larger one would do"):
            precise.redamped(1e-15).self_influence(x_train, y_train)
    fitted = DataInf(small(dtype=torch.float32), 1e-8).fit(x, y)
    exact = DataInf(small(), 1e-8).fit(x, y)
    torch.testing.assert_close(fitted.self_influence(x, y).double(), exact.self_influence(x, y), rtol=1e-4, atol=0)


@quiet
def test_cosines_of_gradients_whose_squares_underflow_are_cosines():
    """Before: 0, or anything, below a norm of 1e-19 in float32."""
    x, y = examples(dtype=torch.float32)
    weighted = losses.Weighted(losses.CrossEntropy())
    model, tiny = small(dtype=torch.float32), torch.full((40,), 1e-30)

    def scores(w: torch.Tensor) -> list[torch.Tensor]:
        fitted = GradCos(model, loss=weighted).fit(x, (y, w))
        given = x, (y, w), x[:7], (y[:7], w[:7])
        return [fitted.pairwise(*given), fitted.influence_on(*given), fitted.self_influence(x, (y, w))]

    for found, wanted in zip(scores(tiny), scores(torch.ones(40)), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_removal_that_float32_cannot_predict_is_warned_of():
    """Before: a tenth off, in silence."""
    x, y = examples(n=8, dtype=torch.float32)
    for damping, warned in ((1e-2, False), (1e-7, True)):
        with warnings.catch_warnings(action="ignore"):
            fitted = ExactGGN(small(dtype=torch.float32), damping).fit(x, y)
        messages = caught(lambda fitted=fitted: fitted.leave_one_out(x, y, x, y))
        assert [("a removal may be" in message) for message in messages] == [True] * warned


@quiet
def test_two_threads_take_turns_with_one_estimator():
    """Before: one's ``by_layer`` gave the other's scores a layers' axis."""
    model, (x, y) = small(), examples()
    fitted, inside, results = GradDot(model).fit(x, y), threading.Event(), {}
    wanted = fitted.self_influence(x, y)
    asked = threading.Thread(target=lambda: results.update(plain=fitted.self_influence(x, y)))

    def while_layers_are_asked_for(*_: object) -> None:
        if fitted._by_layer and not inside.is_set():
            inside.set()
            asked.start()
            asked.join(0.5)

    model[0].register_forward_pre_hook(while_layers_are_asked_for)
    results["by layer"] = fitted.self_influence(x, y, by_layer=True)
    asked.join()
    torch.testing.assert_close(results["plain"], wanted)
    torch.testing.assert_close(sum(results["by layer"].values()), wanted)


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.last = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.attend(x, x, x)[0].mean(1))


def test_attention_with_a_forward_of_its_own_is_refused_and_keeps_it():
    """Before: the patch was deleted from the caller's model."""
    model, maps = Attending(), []
    plain = model.attend.forward
    model.attend.forward = lambda *args, **options: [maps.append(0), plain(*args, **options)][1]
    x, y = torch.randn(20, 3, 4), torch.arange(20) % 3
    with pytest.raises(UserError, match=r"'attend' \(MultiheadAttention with a forward of its own\)"):
        GradDot(model).fit(x, y)
    GradDot(model, leave_out=["attend"]).fit(x, y)
    maps.clear()
    model(x)
    assert len(maps) == 1


@quiet
@pytest.mark.parametrize("loss", [losses.CrossEntropy(), losses.CrossEntropy(next_token=True), losses.SquaredError()])
def test_targets_that_torch_would_spread_over_positions_are_refused(loss):
    """Before: one label, or one row of probabilities, counted at every position."""
    torch.manual_seed(0)
    model, x, right = nn.Linear(4, 5).double(), torch.randn(12, 3, 4).double(), torch.arange(36).view(12, 3) % 5
    soft = isinstance(loss, losses.SquaredError)
    right = nn.functional.one_hot(right, 5).double() if soft else right
    for build in (GradDot, EKFAC):
        fitted = build(model, 0.1, loss=loss).fit(x, right)
        for wrong in (right[:, :1], right[:, :2], right.repeat(1, 3, *[1] * soft)):
            with pytest.raises(UserError, match=r"y: need \(n, 3.* for outputs \(n, 3, 5\), got \(n, [129]"):
                fitted.self_influence(x, wrong)
            with pytest.raises(UserError, match="y: need"):
                fitted.pairwise(x, right, x, wrong)


@quiet
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_that_writes_into_what_it_is_given_writes_into_copies(weighted):
    """Before: the caller's labels were overwritten, and all scores after the first pass were wrong."""

    def masked(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        counted = y != -1
        y[~counted] = 0
        return nn.functional.cross_entropy(f.sub_(1.0), y, reduction="none") * counted

    x, y = examples()
    y = torch.where(torch.arange(40) % 5 == 0, -1, y)
    loss = losses.Custom(masked)
    given = (y.clone(), torch.ones(40)) if weighted else y.clone()
    fitted = EKFAC(small(), 0.1, loss=losses.Weighted(loss) if weighted else loss).fit(x, given)
    wanted = EKFAC(small(), 0.1, loss=losses.CrossEntropy(ignore_index=-1)).fit(x, y).self_influence(x, y)
    torch.testing.assert_close(fitted.self_influence(x, given), wanted)
    assert torch.equal(given[0] if weighted else given, y)


@quiet
def test_examples_that_depend_on_what_they_are_collated_with_are_refused():
    """Before: scores depended on ``batch_size``."""
    model, (x, y) = Positions(), examples()
    items = [(x[: 1 + i % 8], y[i]) for i in range(40)]

    def padded(batch: list) -> tuple[torch.Tensor, torch.Tensor]:
        return nn.utils.rnn.pad_sequence([a for a, _ in batch], batch_first=True), torch.stack([b for _, b in batch])

    def centred(batch: list) -> tuple[torch.Tensor, torch.Tensor]:
        xs, ys = torch.utils.data.default_collate(batch)
        return xs - xs.mean(0), ys

    for taken, held, collate in ((model, items, padded), (small(), list(zip(x, y, strict=True)), centred)):
        loader = torch.utils.data.DataLoader(held, collate_fn=collate)
        with pytest.raises(UserError, match="depends on the others that it is collated with"):
            GradDot(taken).fit(loader)
        GradDot(taken, batch_size=1).fit(loader)


@quiet
@pytest.mark.parametrize("counted", [False, True])
def test_texts_of_several_lengths_are_taken_unless_their_padding_counts(counted):
    """Before: a squared error was refused for any text but as long as the first."""
    torch.manual_seed(0)
    model, generator = nn.Linear(4, 2).double(), torch.Generator().manual_seed(0)
    items = [[torch.randn(1 + i % 4, k, generator=generator).double() for k in (4, 2)] for i in range(20)]
    labels = [y.argmax(1) for _, y in items]

    def padded(batch: list) -> tuple[torch.Tensor, torch.Tensor]:
        xs, ys = ([item[k] for item in batch] for k in (0, 1))
        fill = -100 if ys[0].dim() == 1 else 0.0
        return tuple(nn.utils.rnn.pad_sequence(v, True, f) for v, f in ((xs, 0.0), (ys, fill)))

    held = items if counted else [(x, y) for (x, _), y in zip(items, labels, strict=True)]
    loader = torch.utils.data.DataLoader(held, collate_fn=padded)
    loss = losses.SquaredError() if counted else losses.CrossEntropy()
    if counted:
        with pytest.raises(UserError, match="padding without a mask"):
            GradDot(model, loss=loss).fit(loader)
    alone = GradDot(model, loss=loss, batch_size=1).fit(loader).self_influence(loader)
    for score, (x, y) in zip(alone[:5], held[:5], strict=True):
        own = loss.value(model(x[None]), y[None]).sum()
        squares = sum(g.square().sum() for g in torch.autograd.grad(own, list(model.parameters())))
        torch.testing.assert_close(score, squares.detach())
    if not counted:
        torch.testing.assert_close(GradDot(model, loss=loss).fit(loader).self_influence(loader), alone)


class Tanh(torch.autograd.Function):
    """Of which ``cut`` takes the second derivative away."""

    @staticmethod
    def forward(ctx, x, cut):
        ctx.save_for_backward(x)
        ctx.cut = cut
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - (x.detach() if ctx.cut else x).tanh() ** 2), None


@quiet
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_that_a_backward_may_cut_off_are_refused(dtype):
    """Before: a Hessian without them, in silence."""

    class Model(nn.Module):
        def __init__(self, act):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.act = nn.Linear(4, 5).to(dtype), nn.Linear(5, 3).to(dtype), act

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.act(self.a(x)))

    x, y = examples(dtype=dtype)
    ExactHessian(Model(torch.tanh), 1.0).fit(x, y)
    for act in (lambda h, cut=cut: Tanh.apply(h, cut) for cut in (True, False)):
        for build in (lambda m: ExactHessian(m, 1.0), lambda m: CG(m, 1.0, curvature="hessian")):
            with pytest.raises(UserError, match=r"an autograd\.Function takes part, whose backward may have no deriv"):
                build(Model(act)).fit(x, y)
        EKFAC(Model(act), 1.0).fit(x, y)


@quiet
def test_kinks_are_no_wrong_second_derivatives():
    x, y = examples(n=200)
    x[::2] = 0  # and so, without biases, are all its ReLUs' inputs
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        for layer in (model[0], model[3]):
            layer.bias.data.zero_()
        for dtype in (torch.float32, torch.float64):
            CG(model.to(dtype), 5.0, curvature="hessian", iterations=5).fit(x.to(dtype), y)


@quiet
def test_a_frozen_bias_is_left_out_of_the_last_layer():
    model, (x, y) = small(), examples()
    model[2].bias.requires_grad_(False)
    wanted = ExactGGN(model, 0.1, leave_out=["0"]).fit(x, y).self_influence(x, y)
    torch.testing.assert_close(LastLayerGGN(model, 0.1).fit(x, y).self_influence(x, y), wanted)
    taken = [kind(model, 0.1, include_frozen=True, **only).fit(x, y).self_influence(x, y)
             for kind, only in ((LastLayerGGN, {}), (ExactGGN, {"leave_out": ["0"]}))]  # fmt: skip
    torch.testing.assert_close(*taken)
    assert (taken[0] > wanted).all()


def test_solves_that_rounding_or_a_short_series_spoils_are_warned_of():
    """Before: LiSSA wrong by all of a score, its residual of 2 % being along large eigenvalues; Arnoldi by 12 %."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 6, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    wide = torch.cat([1e3 * x[:, :1] + 3e3, x[:, 1:]], 1)

    def messages(build, x: torch.Tensor, damping: float, dtype: torch.dtype, **options) -> str:
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        model.weight.data[:, 0] /= 1e4
        return " ".join(caught(lambda: build(model.to(dtype), damping, **options).fit(x, y).self_influence(x, y)))

    assert "little curvature" in messages(LiSSA, wide, 0.1, torch.float64, depth=300)
    assert "little curvature" not in messages(LiSSA, x, 0.1, torch.float64, depth=300)
    for build, words in ((Arnoldi, "rounding moves scores"), (CG, "rounding leaves a relative residual")):
        options = {"rank": 21, "iterations": 21} if build is Arnoldi else {}
        small_damping = 0.1 if build is Arnoldi else 1e-7
        assert words in messages(build, wide, small_damping, torch.float32, **options)
        assert words not in messages(build, wide, 0.1, torch.float64, **options)
        assert "rounding" not in messages(build, x, 1e-3, torch.float32, **options)


def test_hooks_on_parameters_are_refused_by_name():
    """Before: ``influence_on`` was that of gradients that the hooks changed, ``pairwise`` was not."""
    model, (x, y) = small(), examples()
    handle = model[0].weight.register_hook(lambda g: g.clamp(-20, 20))
    for build in (GradDot, EKFAC):
        with pytest.raises(UserError, match=r"parameters '0.weight' have hooks .*leave_out=\['0.weight'\]"):
            build(model).fit(x, y)
    LastLayerGGN(model, 0.1).fit(x, y)
    handle.remove()
    GradDot(model).fit(x, y)


class Rescaled(torch.autograd.Function):
    """The identity, whose gradient is over the length of the batch's."""

    @staticmethod
    def forward(ctx, h):
        return h.clone()

    @staticmethod
    def backward(ctx, g):
        return g / g.norm()


def test_a_backward_that_mixes_examples_is_refused():
    with pytest.raises(UserError, match="backward pass mixes the examples"):
        GradDot(nn.Sequential(small(), OnLogits())).fit(*examples())


class OnLogits(nn.Module):
    def forward(self, f: torch.Tensor) -> torch.Tensor:
        return Rescaled.apply(f)


@quiet
def test_trak_in_float32_is_right_for_confident_models():
    """Before: 1 - p_y, which is 0 or a few rounding errors."""
    model, (x, _) = small(dtype=torch.float32), examples(dtype=torch.float32)
    model[2].weight.data.mul_(60.0)
    y = model(x).argmax(1)
    scores = [
        TRAK([model], 0.1, dimensions=16, dtype=dtype).fit(x, y).self_influence(x, y) for dtype in (None, torch.float64)
    ]
    torch.testing.assert_close(scores[0].double(), scores[1], rtol=1e-3, atol=0)
    soft = nn.functional.one_hot(y, 3).double()
    for labels in (torch.where(y > 0, y, -100), soft):
        with pytest.raises(UserError, match="x, y: TRAK's margin is that of one class index"):
            TRAK([model], 0.1, dimensions=8).fit(x, labels)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: EKFAC(m, samples="2"), "samples: must be a whole number of at least 1, got '2'"),
        (lambda m: EKFAC(m, seed=None), "seed: must be a whole number"),
        (lambda m: EKFAC(m, l2=np.ones((2, 2))), "l2: must be a number of at least 0, got array"),
        (lambda m: EKFAC(m, batch_size=True), "batch_size"),
        (lambda m: EKFAC(m, leave_out=None), "leave_out: must be a list of names, got a NoneType"),
        (lambda m: EKFAC(m, leave_out=[0]), "leave_out: must be a list of names, got 0"),
        (lambda m: LiSSA(m, depth=None), "depth"),
        (lambda m: LiSSA(m, depth=2.5), "depth"),
        (lambda m: CG(m, iterations="9"), "iterations"),
        (lambda m: CG(m, tolerance=None), "tolerance: must be a number above 0, got None"),
        (lambda m: Arnoldi(m, rank="9"), "rank"),
        (lambda m: TRAK([m], dimensions=8.5), "dimensions"),
        (lambda m: TRAK(None), "models: must be a list of models, got a NoneType"),
        (lambda m: TracIn([m], 0.1), "learning_rates: must be a list of numbers, got a float"),
        (lambda m: TracIn([m], [float("inf")]), "learning_rates: must be above 0, finite numbers, got inf"),
        (lambda m: TracIn(m, [0.1]), "checkpoints: must be a list of models"),
        (lambda _: losses.CrossEntropy(weight=2.0), "weight: must be a list of numbers, got a float"),
        (lambda _: losses.CrossEntropy(label_smoothing=None), "label_smoothing: must be a number in"),
        (lambda _: losses.CrossEntropy(ignore_index=None), "ignore_index: must be a whole number, got None"),
        (lambda _: losses.Weighted(nn.CrossEntropyLoss()), "loss: Weighted takes one of .*got a CrossEntropyLoss"),
        (lambda _: losses.Custom("x"), "loss: Custom takes a function"),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused_at_construction(call, words):
    with pytest.raises(UserError, match=words) as error:
        call(problem()[0])
    assert "\n" not in str(error.value)


@quiet
def test_numbers_of_numpy_are_settings_that_a_file_can_hold(tmp_path):
    x, y = examples()
    fitted = EKFAC(small(), np.float32(0.5), batch_size=np.int64(8), seed=np.int64(0), l2=torch.tensor(0.25)).fit(x, y)
    fitted.save(tmp_path / "e")
    assert (fitted.damping, fitted.batch_size, fitted.seed, fitted.l2) == (0.5, 8, 0, 0.25)


@quiet
def test_a_model_that_keeps_its_results_has_a_copy_in_another_dtype():
    class Keeps(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = super().forward(x)
            return self.kept

    (x, y), model = examples(dtype=torch.float32), Keeps(4, 3)
    model(x)
    assert GradDot(model, dtype=torch.float64).fit(x, y).self_influence(x, y).dtype == torch.float64
    model.all_kept = [2 * model.kept]
    with pytest.raises(UserError, match="model: cannot be copied to float64: "):
        GradDot(model, dtype=torch.float64).fit(x, y)


def test_losses_without_a_gradient_and_targets_of_other_lengths_are_refused():
    x, y = examples()
    for function, words in (
        (lambda f, y: (f.argmax(1) != y).double(), "loss: the function has no gradient in f"),
        (lambda f, y: 1.0, r"must give \(n,\) losses, got a float"),
    ):
        with pytest.raises(UserError, match=words):
            GradDot(small(), loss=losses.Custom(function)).fit(x, y).self_influence(x, y)
        with pytest.raises(UserError, match=words):
            ExactHessian(small(), 5.0, loss=losses.Custom(function)).fit(x, y)
    weighed = losses.Custom(lambda f, y: nn.functional.cross_entropy(f, y[0], reduction="none") * y[1])
    with pytest.raises(UserError, match=r"x, y: need x .* and \(45,\)"):
        GradDot(small(), loss=weighed).fit(x, (y, torch.rand(45)))


@quiet
def test_what_a_refusal_tells_to_leave_out_can_be_left_out():
    """Before: of two layers of one weight it named the first, and that was refused as tied to the second."""

    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = (
                nn.Embedding(7, 4, max_norm=1.0),
                nn.Embedding(7, 4, max_norm=1.0),
                nn.Linear(4, 3),
            )
            self.b.weight = self.a.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.last((self.a(tokens) + self.b(tokens)).mean(1))

    tokens, y = torch.arange(40).view(8, 5) % 7, torch.arange(8) % 3
    with pytest.raises(UserError, match=r"leave_out=\['a', 'b'\] leaves them out"):
        GradDot(Twins()).fit(tokens, y)
    GradDot(Twins(), leave_out=["a", "b"]).fit(tokens, y)


@quiet
def test_the_target_may_be_given_by_name_after_a_data_set():
    """Before: the y that was left out was taken for the target's x."""
    x, y = examples()
    fitted, held = GradDot(small()).fit(x, y), torch.utils.data.TensorDataset(x, y)
    wanted = fitted.influence_on(x, y, x[:5], y[:5])
    torch.testing.assert_close(fitted.influence_on(held, x_val=x[:5], y_val=y[:5]), wanted)
    torch.testing.assert_close(fitted.influence_on(held, x_val=torch.utils.data.Subset(held, range(5))), wanted)


@quiet
@pytest.mark.parametrize("where", ["model", "x", "y", "x_val"])
def test_the_meta_device_which_holds_no_numbers_is_refused_in_one_line(kind, where):
    """Before: RuntimeError."""
    model, (x, y) = small(), examples()
    given = {"x": x, "y": y, "x_val": x}
    fitted = kind(model).fit(x, y)
    if where != "model":
        given[where] = given[where].to("meta")
    model = small().to("meta") if where == "model" else model
    refused = fitted.influence_on if where == "x_val" else kind(model).fit
    arguments = (x, y, given["x_val"], y) if where == "x_val" else (given["x"], given["y"])
    with pytest.raises(UserError, match=r"on the meta device, which holds no numbers$"):
        refused(*arguments)


@quiet
def test_a_set_that_is_read_is_run_as_often_as_one_in_tensors():
    """Before: eight times more often, to look at examples that are read as they stand in their sample."""
    model, (x, y), passes = small(), examples(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def passes_of(*given) -> int:
        passes.clear()
        GradDot(model).fit(*given)
        return len(passes)

    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)))
    assert passes_of(loader) == passes_of(x, y)


MISSPELT = {
    kind.__name__: (lambda m, kind=kind: kind(m, dampning=0.1), "dampning", "damping")
    for kind in (Arnoldi, CG, DataInf, EKFAC, ExactGGN, ExactHessian, GradCos, GradDot, KFAC, LastLayerGGN, LiSSA, TRAK)
} | {
    "EKFAC's own": (lambda m: EKFAC(m, fischer="exact"), "fischer", "fisher"),
    "TracIn": (lambda m: TracIn([m], [0.1], batchsize=3), "batchsize", "batch_size"),
    "CG's own": (lambda m: CG(m, tolerence=1e-3), "tolerence", "tolerance"),
}


@pytest.mark.parametrize("case", MISSPELT)
def test_a_misspelt_option_is_one_line_with_the_right_one(case):
    """Before: a raw TypeError."""
    call, word, right = MISSPELT[case]
    with pytest.raises(UserError) as error:
        call(problem()[0])
    assert str(error.value) == f"{word}: is no option of this estimator; did you mean '{right}'?"


class LowRank(nn.Module):
    """A layer with a LoRA beside it, as it is initialised."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base, self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)
        self.base.requires_grad_(False)
        self.b.weight.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@quiet
def test_datainf_of_a_lora_that_was_not_trained_names_the_layer_without_gradients():
    """Before: it asked for a damping of which the user had never heard."""
    (x, y), model = examples(), LowRank().double()
    with pytest.raises(UserError, match=r"^model: the gradient of layer 'a' is 0 .*B is 0.*leave_out=\['a'\]") as error:
        DataInf(model).fit(x, y)
    assert "\n" not in str(error.value)
    for options in ({"leave_out": ["a"]}, {"damping": 0.1}):
        DataInf(model, **options).fit(x, y)
    model.b.weight.data.normal_()
    DataInf(model).fit(x, y)
    with pytest.raises(UserError, match="damping: must be above 0"):
        DataInf(model, 0.0).fit(x, y)


def test_trak_refuses_a_stack_in_a_list_too():
    """Before: a traceback."""
    with pytest.raises(UserError, match="a stack is ambiguous"):
        TRAK([Stack(nn.Sequential(nn.Linear(4, 3)), 2)])


class OtherLayers(nn.Module):
    """Of two examples another layer runs than of three."""

    def __init__(self):
        super().__init__()
        self.even, self.odd = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return (self.odd if len(x) % 2 else self.even)(x)


class Root(nn.Module):
    """Finite logits whose gradient is not, where an input is 0."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3, bias=False), nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.first(x).abs().sqrt())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (OtherLayers(), "runs other layers for another number of examples"),
        (Root(), r"gradients of finite logits of x are not finite \(the root of 0"),
        (nn.Linear(4, 3, dtype=torch.complex64), "computes in complex64; no complex model is taken"),
    ],
    ids=["other layers", "a root of 0", "complex"],
)
def test_what_a_model_does_on_the_way_is_named(model, words):
    x = torch.randn(12, 4)
    x[5] = 0
    with pytest.raises(UserError, match=words):
        EKFAC(model.eval(), 0.1).fit(x, torch.arange(12) % 3)


def test_a_number_in_numpy_is_the_same_loss_and_a_weight_that_is_no_list_is_one_line():
    assert repr(losses.CrossEntropy(label_smoothing=np.float64(0.1))) == repr(losses.CrossEntropy(label_smoothing=0.1))
    with pytest.raises(UserError, match="positive_weight: must be a list of numbers"):
        losses.BinaryCrossEntropy(torch.tensor(2.0))
