"""A fitted estimator scores the model that it was fitted on, or refuses: here the model changes after ``fit``."""

import copy
import warnings

import pytest
import torch
from influence_oracle import refusal
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from datalab import influence
from datalab.influence import (
    CG,
    EKFAC,
    KFAC,
    TRAK,
    DataInf,
    ExactGGN,
    ExactHessian,
    GradDot,
    LastLayerGGN,
    TracIn,
    losses,
)

KINDS = {
    "EKFAC": lambda model: EKFAC(model, 0.1),
    "KFAC": lambda model: KFAC(model, 0.1),
    "ExactGGN": lambda model: ExactGGN(model, 0.1),
    "ExactHessian": lambda model: ExactHessian(model, 5.0),
    "LastLayerGGN": lambda model: LastLayerGGN(model, 0.1),
    "CG": lambda model: CG(model, 0.1),
    "DataInf": lambda model: DataInf(model, 0.1),
    "GradDot": lambda model: GradDot(model),
    "TRAK": lambda model: TRAK(model, 0.1),
    "TracIn": lambda model: TracIn([model], [0.1]),
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(action="ignore", category=influence.InfluenceWarning):
        yield


def data(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 6, generator=g).double(), torch.arange(n) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    normed = nn.BatchNorm1d(4)
    normed.running_mean += 0.3
    return nn.Sequential(nn.Linear(6, 4), normed, nn.Tanh(), nn.Linear(4, 3)).double().eval()


def trained_on(model: nn.Sequential) -> None:
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def other_statistics(model: nn.Sequential) -> None:
    model[1].running_mean[0] += 1e-9


def through_data(model: nn.Sequential) -> None:
    model[3].weight.data[0, 0] *= 1 + 1e-12


def other_layer(model: nn.Sequential) -> None:
    model[3] = nn.Linear(4, 3).double()


def other_activation(model: nn.Sequential) -> None:
    model[2] = nn.ReLU()


def in_train_mode(model: nn.Sequential) -> None:
    model.train()


CHANGES = [trained_on, other_statistics, through_data, other_layer, other_activation, in_train_mode]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_changed_after_fit_is_not_scored(name, change):
    """Before: old curvature and new gradients, in silence; in train mode the model's statistics were written over."""
    model, (x, y) = network(), data()
    fitted = KINDS[name](model).fit(x, y)
    fitted.self_influence(x, y), fitted.influence_on(x, y, x, y)  # as it was
    change(model)
    statistics = model[1].running_mean.clone()
    verbs = [fitted.self_influence, lambda *a: fitted.influence_on(*a, *a), lambda *a: fitted.pairwise(*a, *a)]
    for verb in [*verbs, lambda *a: fitted.top(*a, *a, k=1)]:
        message = refusal(lambda verb=verb: verb(x, y))
        wanted = "is in train mode; call model.eval() first" if change is in_train_mode else "changed after fit"
        assert wanted in message
    assert torch.equal(model[1].running_mean, statistics)


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changed_is_neither_damped_anew_nor_saved_nor_loaded(change, tmp_path):
    """Before: ``save`` wrote the new parameters' digest beside the old curvature, and ``load`` saw parameters alone."""
    model, (x, y) = network(), data()
    fitted = EKFAC(model, 0.1).fit(x, y)
    fitted.save(tmp_path / "before")
    influence.load(tmp_path / "before", model).self_influence(x, y)
    change(model)
    refusal(lambda: fitted.redamped(0.2))
    refusal(lambda: fitted.save(tmp_path / "after"))
    assert not (tmp_path / "after").exists()
    refusal(lambda: influence.load(tmp_path / "before", model).self_influence(x, y))


def test_a_model_that_changed_back_is_scored_as_before():
    model, (x, y) = network(), data()
    fitted = EKFAC(model, 0.1).fit(x, y)
    scores = fitted.self_influence(x, y)
    model[0].weight.data.neg_()
    refusal(lambda: fitted.self_influence(x, y))
    model[0].weight.data.neg_()
    model.train().eval()
    assert torch.equal(fitted.self_influence(x, y), scores)


class Attributes(nn.Module):
    """Its logits depend on what is no parameter and no buffer."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale, self.act, self.mask = nn.Linear(6, 3), 1.0, torch.tanh, torch.ones(3).double()

    def forward(self, x):
        return self.act(self.layer(x)) * self.scale * self.mask


def doubled(model: nn.Module) -> None:
    model.scale = 2.0


def other_function(model: nn.Module) -> None:
    model.act = torch.relu


def masked(model: nn.Module) -> None:
    model.mask[0] = 0


def hooked(model: nn.Module) -> None:
    model.layer.register_forward_hook(lambda module, args, output: 3 * output)


@pytest.mark.parametrize("change", [doubled, other_function, masked, hooked])
def test_a_model_whose_logits_changed_by_no_parameter_is_not_scored(change):
    model, (x, y) = Attributes().double(), data()
    fitted = EKFAC(model, 0.1).fit(x, y)
    fitted.self_influence(x, y)
    change(model)
    assert "its logits changed after fit" in refusal(lambda: fitted.self_influence(x, y))


def tied() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)).double()
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("frozen", [False, True])
def test_a_weight_that_is_tied_no_longer_is_a_change(frozen, tmp_path):
    model, (x, y) = tied(), data()
    model[0].weight.requires_grad_(not frozen)
    fitted = EKFAC(model, 0.1).fit(x, y)
    fitted.save(tmp_path / "file")
    model[2].weight = nn.Parameter(model[0].weight.detach().clone(), requires_grad=not frozen)  # the same values
    assert "changed after fit" in refusal(lambda: fitted.self_influence(x, y))
    assert "not the one" in refusal(lambda: influence.load(tmp_path / "file", model))


@pytest.mark.parametrize("name", ["EKFAC", "LastLayerGGN", "GradDot"])
def test_parameters_assigned_after_fit_are_a_change_whatever_their_values(name):
    """Before: "computes something else than its kind does"."""
    model, (x, y) = network(), data()
    fitted = KINDS[name](model).fit(x, y)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert "'3' changed after fit; fit the estimator anew" in refusal(lambda: fitted.self_influence(x, y))
    KINDS[name](model).fit(x, y).self_influence(x, y)


def test_a_file_is_of_the_layers_that_were_taken(tmp_path):
    """Before: scored over other layers in silence, or a traceback of shapes."""
    (x, y), model = data(), nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3)).double()
    model[0].requires_grad_(False)
    EKFAC(model, 0.1).fit(x, y).save(tmp_path / "file")
    influence.load(tmp_path / "file", model).self_influence(x, y)
    for first, second in ((True, False), (True, True)):
        model[0].requires_grad_(first), model[2].requires_grad_(second)
        assert "how it is built" in refusal(lambda: influence.load(tmp_path / "file", model))


class Rotary(nn.Module):
    """Keeps a table as long as the longest input so far, which no state dict has; its words hold an address."""

    def __init__(self):
        super().__init__()
        self.layer, self.of = nn.Linear(1, 3), object()
        self.register_buffer("table", torch.empty(0), persistent=False)
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64).conj())
        self.register_buffer("absent", torch.empty(3, device="meta"), persistent=False)

    def extra_repr(self):
        return f"of={self.of}"

    def forward(self, x):
        if len(self.table) < x.shape[1]:
            self.register_buffer("table", torch.arange(x.shape[1]).to(x), persistent=False)
        return self.layer(torch.cos(x * self.table[: x.shape[1]]).sum(1, keepdim=True))


def test_a_cache_that_grows_and_an_address_in_words_are_no_change(tmp_path):
    (x, y), longer = data(), torch.randn(12, 8).double()
    model = Rotary().double()
    fitted = EKFAC(model, 0.1).fit(x, y)
    fitted.save(tmp_path / "file")
    wanted = fitted.self_influence(x, y)
    for _ in range(2):
        fitted.influence_on(x, y, longer, y)
    assert torch.equal(copy.deepcopy(fitted).self_influence(x, y), wanted)
    again = Rotary().double()
    again.load_state_dict(model.state_dict())
    assert torch.allclose(influence.load(tmp_path / "file", again).self_influence(x, y), wanted)


def test_one_object_is_not_two_checkpoints_and_true_is_no_number():
    model, (x, y) = network(), data()
    assert "one model is there twice" in refusal(lambda: TracIn([model, model], [0.1, 0.1]))
    assert "k: must lie in" in refusal(lambda: GradDot(model).fit(x, y).top(x, y, x, y, k=True))


class Counting(nn.Module):
    """Counts its forward passes in a buffer, which its logits do not depend on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


def test_what_forward_passes_write_by_themselves_is_no_change(tmp_path):
    model, (x, y) = Counting().double(), data()
    fitted = EKFAC(model, 0.1).fit(x, y)
    scores = fitted.self_influence(x, y)
    fitted.save(tmp_path / "file")
    assert torch.equal(fitted.self_influence(x, y), scores)
    assert torch.allclose(influence.load(tmp_path / "file", model).self_influence(x, y), scores)


class Sloped(nn.Module):
    """Something of how it computes is no parameter."""

    slope, outputs = 1.0, 3

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 4), nn.Linear(4, 3)

    def forward(self, tokens, scale, mask):
        if self.slope is None:
            raise ValueError("no slope")
        assert (tokens == 49).any(1).all(), "no end"
        of_text = (self.embedding(tokens.int()) * mask[..., None]).mean(1)
        return self.head(torch.tanh(self.slope * of_text * scale))[:, : self.outputs]


def texts(n: int = 12) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 49, (n, 6), generator=g)
    tokens[:, -1] = 49
    scale = 1e6 * torch.rand(n, 1, generator=g, dtype=torch.float64)
    return {"tokens": tokens.to(torch.uint16), "scale": scale, "mask": tokens > 4}, torch.arange(n) % 3


def of_another_slope(model: Sloped) -> None:
    model.slope = -1.0


def hooked(model: Sloped) -> None:
    model.embedding.register_forward_hook(lambda _, __, output: -output)


def failing(model: Sloped) -> None:
    model.slope = None


def of_fewer_outputs(model: Sloped) -> None:
    model.outputs = 2


@pytest.mark.parametrize("change", [of_another_slope, hooked, failing, of_fewer_outputs])
def test_what_no_parameter_says_is_seen_by_load_too(change, tmp_path):
    """Before: a file was loaded onto a model with another attribute or a hook, and scored it in silence."""
    torch.manual_seed(0)
    model, (x, y) = Sloped().double().eval(), texts()
    fitted = EKFAC(model, 0.1).fit(x, y)
    scores = fitted.self_influence(x, y)
    fitted.save(tmp_path / "file")
    again = influence.load(tmp_path / "file", model)
    again.save(tmp_path / "copy")
    assert torch.equal(influence.load(tmp_path / "copy", model).self_influence(x, y), scores)
    change(model)
    for file in ("file", "copy"):
        assert "its logits are others" in refusal(lambda file=file: influence.load(tmp_path / file, model))
    for estimator in (fitted, again):
        assert "changed after fit" in refusal(lambda estimator=estimator: estimator.self_influence(x, y))


class Real(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, a, b=None):
        return self.layer(a.real.clone())


@pytest.mark.parametrize("x", [torch.randn(12, 6, dtype=torch.complex128), {"a": data()[0], "b": torch.ones(12, 0)}])
def test_a_file_holds_two_examples_unless_it_is_asked_not_to_or_cannot(x, tmp_path):
    torch.manual_seed(0)
    model, y = Real().double(), data()[1]
    fitted = EKFAC(model, 0.1).fit(x, y)
    fitted.save(tmp_path / "with")
    fitted.save(tmp_path / "without", examples=False)
    with safe_open(tmp_path / "without", "pt") as file:
        assert not any(key.startswith("examples") for key in file.keys())  # noqa: SIM118
    for file in ("with", "without"):
        again = influence.load(tmp_path / file, model)
        torch.testing.assert_close(again.self_influence(x, y), fitted.self_influence(x, y))


def test_of_many_logits_a_file_holds_some(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Embedding(3, 40_000).eval(), torch.tensor([[0, 1], [2, 0], [1, 1]])
    fitted = GradDot(model).fit(x, x)
    fitted.save(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size < 400_000
    influence.load(tmp_path / "file", model).self_influence(x, x)


def test_a_file_of_another_layout_is_refused(tmp_path):
    """Before version 2 the channels of a convolution's patches came first."""
    (x, y), model = data(), network()
    EKFAC(model, 0.1).fit(x, y).save(tmp_path / "file")
    with safe_open(tmp_path / "file", "pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "old", {"datalab.influence": header["datalab.influence/3"]})
    assert "no estimator saved by save" in refusal(lambda: influence.load(tmp_path / "old", model))


def test_a_copy_in_another_precision_stays_what_it_was():
    """``dtype`` scores a copy: what happens to the model afterwards is another's."""
    model, (x, y) = network(), data()
    fitted = EKFAC(model, 0.1, dtype=torch.float32).fit(x, y)
    scores = fitted.self_influence(x, y)
    trained_on(model)
    assert torch.equal(fitted.self_influence(x, y), scores)


class Overwrites(nn.Module):
    """Writes into what its first layer took, for every example or, by its sign, for few."""

    def __init__(self, few: bool):
        super().__init__()
        self.first, self.last, self.few = nn.Linear(6, 4), nn.Linear(4, 3), few

    def forward(self, x):
        hidden = x * 2.0
        logits = self.last(torch.tanh(self.first(hidden)))
        with torch.no_grad():
            hidden[hidden[:, 0] > 3.0 if self.few else slice(None)] = 0.0
        return logits


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layers_input_that_is_overwritten_after_it_ran_is_refused(few, frozen):
    """Before: "computes something else than its kind does" where a sampled example was hit, else a wrong score."""
    model, (x, y) = Overwrites(few).double(), data()
    model.last.requires_grad_(not frozen)
    for fit in (EKFAC(model, 0.1).fit, GradDot(model).fit):
        assert "into what layer 'first' took, after it ran; let it work on a copy" in refusal(lambda fit=fit: fit(x, y))


class Spoils(nn.Module):
    """Writes into what autograd keeps of tanh."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(hidden.mul(1.0)) + hidden.mul_(2.0)[:, :3]


def test_what_autograd_cannot_go_back_through_is_one_line():
    """Before: RuntimeError."""
    x, y = data()
    assert "writes into what its gradient needs; let it work on a copy" in refusal(
        lambda: EKFAC(Spoils().double()).fit(x, y)
    )


@pytest.mark.parametrize("kind", [CG, EKFAC, KFAC, ExactGGN, LastLayerGGN, DataInf])
def test_no_curvature_at_all_needs_a_damping_in_numbers(kind):
    """Before: CG fitted with a damping of 0, and gave scores that were not finite."""
    x, y = data()
    model = nn.Linear(6, 3).double()
    ignored = losses.CrossEntropy(ignore_index=7)
    assert "damping: " in refusal(lambda: kind(model, loss=ignored).fit(x, torch.full_like(y, 7)))
