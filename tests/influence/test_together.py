"""What sets and losses give, through what tapes take and refuse: tied weights, language models, frozen layers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from datalab import influence
from datalab.errors import UserError
from datalab.influence import EKFAC, KFAC, TRAK, ExactGGN, GradCos, GradDot, LastLayerGGN, LiSSA, TracIn
from datalab.influence.losses import CrossEntropy, Weighted
from datalab.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
N, T, WORDS = 9, 4, 6


class Language(nn.Module):
    """Predicts the next of six tokens, with a head tied to the embedding that has a bias of its own, as BERT's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Embedding(WORDS, 3), nn.Linear(3, 3), nn.Linear(3, WORDS)
        self.head.weight = self.embed.weight

    def forward(self, input_ids, attention_mask):
        h = self.embed(input_ids) * attention_mask[..., None]
        return SimpleNamespace(logits=self.head(torch.tanh(self.mix(h))))


class Texts(Dataset):
    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, WORDS, (N, T), generator=g)
        self.mask = (torch.arange(T) < torch.randint(2, T + 1, (N, 1), generator=g)).double()

    def __len__(self):
        return N

    def __getitem__(self, i):
        labels = torch.where(self.mask[i] > 0, self.tokens[i], -100)
        return {"input_ids": self.tokens[i], "attention_mask": self.mask[i], "labels": labels}


def brute_force(model, texts):
    """Each text's gradient over all parameters (N, P)."""
    rows = []
    for i in range(N):
        item = {key: value[None] for key, value in texts[i].items()}
        labels = item.pop("labels")[0]
        loss = functional.cross_entropy(model(**item).logits[0, :-1], labels[1:], reduction="sum")
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


def test_a_language_model_with_a_tied_head_is_scored_from_a_loader():
    model, texts = Language().double(), Texts()
    loader, g = DataLoader(texts, batch_size=2, shuffle=True), brute_force(model, texts)
    scores = GradDot(model, batch_size=4, loss=CrossEntropy(next_token=True)).fit(loader).pairwise(loader, loader)
    torch.testing.assert_close(scores, -g @ g.T)


@pytest.mark.parametrize("kind", [EKFAC, KFAC, ExactGGN, GradDot, GradCos])
def test_the_scores_of_layers_with_shared_weights_add_up_and_are_saved(kind, tmp_path):
    model, texts = Language().double(), Texts()
    for parameter in model.mix.parameters():
        parameter.requires_grad_(False)
    loss = CrossEntropy(next_token=True)
    estimator = kind(model, 0.1, include_frozen=True, loss=loss).fit(texts)
    whole = estimator.self_influence(texts)
    layers = estimator.self_influence(texts, by_layer=True)
    assert set(layers) == {"mix", "head", "head.bias"}  # the embedding's weight is the head's
    torch.testing.assert_close(sum(layers.values()), whole)
    estimator.save(tmp_path / "fitted")
    loaded = influence.load(tmp_path / "fitted", model, loss=loss)
    torch.testing.assert_close(loaded.self_influence(texts), whole)


class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Mean(nn.Module):
    """Adds a little of the batch's mean."""

    def forward(self, x):
        return x + 1e-3 * x.mean(0)


@pytest.mark.parametrize("kind", [EKFAC, LastLayerGGN])
def test_a_streamed_set_is_looked_at_as_one_in_tensors_is(kind):
    x, y = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(40) % 3
    mixing = nn.Sequential(nn.Linear(5, 4), Mean(), nn.Linear(4, 3)).double()
    with pytest.raises(UserError, match="mixes the examples"):
        kind(mixing, 0.1).fit(DataLoader(Rows(x, y)))
    plain = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    plain[0].weight.data[0, 0] = x[17, 0] = 1e200
    with pytest.raises(UserError, match=r"not finite for 1 of 40 examples, first for x\[17\]"):
        kind(plain, 0.1).fit(Rows(x, y))


def test_two_stacked_models_take_weighted_examples():
    stack = Stack(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 2, dtype=torch.float64)
    for value in stack.parameters.values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double())
    x, y, w = torch.randn(7, 5).double(), torch.arange(7) % 3, torch.rand(7).double()
    scores = GradDot(stack, loss=Weighted(CrossEntropy())).fit(x, (y, w)).self_influence(x, (y, w))
    torch.testing.assert_close(scores, GradDot(stack).fit(x, y).self_influence(x, y) * w.square())


def test_a_series_that_diverges_to_infinity_is_refused_as_diverging():
    x, y = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 3
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    estimator = LiSSA(model, 0.1, depth=200).fit(x, y)
    estimator.scale_ = estimator.scale_ / 100
    with pytest.raises(UserError, match="the series diverges"):
        estimator.influence_on(x, y, x, y)


class Root(nn.Module):
    """A function without a finite gradient at 0."""

    def forward(self, x):
        return x + x.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("kind", [GradDot, EKFAC, lambda m: TRAK(m, dimensions=4), lambda m: TracIn([m], [0.1])])
def test_a_gradient_that_is_not_finite_in_another_set_than_the_fitted_is_refused(kind):
    model = nn.Sequential(nn.Linear(5, 4, bias=False), Root(), nn.Linear(4, 3)).double()
    x, y = torch.randn(600, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(600) % 3
    fitted, bad = kind(model).fit(x, y), x.clone()
    bad[101] = 0
    for verb, sets in (("self_influence", ()), ("pairwise", (x[:2], y[:2])), ("top", (x[:2], y[:2]))):
        with pytest.raises(UserError, match="not finite"):
            getattr(fitted, verb)(bad, y, *sets)


VERBS = ("influence_on", "pairwise", "top", "leave_one_out")


@pytest.mark.parametrize("verb", VERBS)
def test_a_refusal_of_an_example_names_its_set_and_row(verb):
    g = torch.Generator().manual_seed(0)
    tokens, y = torch.randint(0, 7, (40, 5), generator=g), torch.arange(40) % 3
    name = "x_val" if verb in ("influence_on", "leave_one_out") else "x_test"
    unknown = tokens.clone()
    unknown[33, 2] = 9
    texts = EKFAC(nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3)).double(), 0.1).fit(tokens, y)
    with pytest.raises(UserError, match=rf"^{name}: the model does not take {name}\[33\]: index out of range"):
        getattr(texts, verb)(tokens, y, unknown, y)
    x = torch.randn(40, 4, generator=g).double()
    model = nn.Linear(4, 3).double()
    model.weight.data = torch.tensor([[3.0] * 4, [2.0] * 4, [1.0] * 4]).double()
    numbers = EKFAC(model, 0.1).fit(x, y)
    bad = x.clone()
    bad[[33, 35]] = torch.nan
    with pytest.raises(UserError, match=rf"x must be finite.* for 2 of 40 examples, first for {name}\[33\]"):
        getattr(numbers, verb)(x, y, bad, y)
    with pytest.raises(UserError, match=rf"logits are not finite for 2 of 40 examples, first for {name}\[33\]"):
        getattr(numbers, verb)(x, y, torch.where(bad.isnan(), 1e308, x), y)
    with pytest.raises(UserError, match=r"x must be finite.* for 2 of 40 examples, first for x\[33\]"):
        numbers.self_influence(bad, y)
