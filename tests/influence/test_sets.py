"""What users bring data in, and what they take away: every form gives the same scores, or one clear line."""

import functools
import importlib.util
import io
import sys

import numpy as np
import pytest
import torch
from influence_oracle import problem
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

from datalab import influence
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
    LastLayerGGN,
    LiSSA,
    TracIn,
    feed,
)
from datalab.influence.losses import CrossEntropy, Custom, SquaredError, Weighted
from datalab.influence.sets import Batch
from datalab.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
KINDS = {
    "ExactGGN": lambda m: ExactGGN(m, 0.1),
    "ExactHessian": lambda m: ExactHessian(m, 5.0),
    "LastLayerGGN": lambda m: LastLayerGGN(m, 0.1),
    "KFAC": lambda m: KFAC(m, 0.1),
    "EKFAC": lambda m: EKFAC(m, 0.1),
    "DataInf": lambda m: DataInf(m, 0.1),
    "CG": lambda m: CG(m, 0.1),
    "LiSSA": lambda m: LiSSA(m, 0.5, depth=20),
    "Arnoldi": lambda m: Arnoldi(m, 0.1, rank=10),
    "GradDot": GradDot,
    "GradCos": GradCos,
    "TRAK": lambda m: TRAK(m, 0.1, dimensions=8),
    "TracIn": lambda m: TracIn([m], [0.1]),
}
VERBS = ("self_influence", "influence_on", "pairwise", "top", "leave_one_out")


class Normalised(TensorDataset):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x / 2, y


class FirstHalf(TensorDataset):
    def __len__(self):
        return len(self.tensors[0]) // 2


class Backwards(RandomSampler):
    def __iter__(self):
        return iter([0] * len(self))


class Doubling(DataLoader):
    def __iter__(self):
        return ((2 * x, y) for x, y in super().__iter__())


class Pairs(Dataset):
    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, i):
        return tuple(t[i] for t in self.tensors)


class Several(Pairs):
    def __getitem__(self, i):
        return tuple(t[i] for t in self.tensors[:-1]), self.tensors[-1][i]


class Dicts(Pairs):
    def __getitem__(self, i):
        return {"x": self.tensors[0][i], "labels": int(self.tensors[1][i])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


class Named(nn.Module):
    """Takes its input by name, as transformers' models do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def scored(estimator, train, val):
    """The result of every verb that the estimator has."""
    results = {}
    for verb in VERBS:
        sets = train if verb == "self_influence" else (*train, *val)
        options = {"k": 3} if verb == "top" else {}
        if verb == "leave_one_out" and isinstance(estimator, GradDot | TRAK | TracIn):
            continue  # it has no curvature
        results[verb] = getattr(estimator, verb)(*sets, **options)
    return results


def same(ours, wanted):
    assert ours.keys() == wanted.keys()
    for verb, result in ours.items():
        torch.testing.assert_close(result, wanted[verb], msg=verb)


@pytest.mark.parametrize("name", KINDS)
def test_every_verb_takes_arrays_data_sets_and_loaders_and_scores_alike(name):
    model, (x, y), (x_val, y_val) = problem()
    wanted = scored(KINDS[name](model).fit(x, y), (x, y), (x_val, y_val))
    loader = DataLoader(Pairs(x, y), batch_size=4, shuffle=True)
    forms = {
        "arrays": ((x.numpy(), y.numpy().astype(np.uint16)), (x_val.tolist(), y_val.numpy().astype(np.uint64))),
        "a TensorDataset": ((TensorDataset(x, y),), (TensorDataset(x_val, y_val),)),
        "a shuffled DataLoader": ((loader,), (DataLoader(Pairs(x_val, y_val)),)),
    }
    for train, val in forms.values():
        same(scored(KINDS[name](model).fit(*train), train, val), wanted)


@pytest.mark.parametrize("name", ["EKFAC", "CG", "LastLayerGGN", "TRAK"])
def test_a_dict_is_the_models_keyword_arguments(name):
    model, (x, y), (x_val, y_val) = problem()
    wanted = scored(KINDS[name](model).fit(x, y), (x, y), (x_val, y_val))
    named = Named(model)
    for train, val in (
        (({"x": x}, y), ({"x": x_val.numpy()}, y_val)),
        ((Dicts(x, y),), (DataLoader(Dicts(x_val, y_val), batch_size=2),)),
    ):
        same(scored(KINDS[name](named).fit(*train), train, val), wanted)


def test_sequences_of_several_lengths_are_padded_by_the_collation_and_their_labels_ignored():
    """A token-level loss on padded batches: scores do not depend on how examples are batched."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    items = [(torch.randn(t, 3, generator=g).double(), torch.randint(0, 5, (t,), generator=g)) for t in (1, 4, 2, 3, 2)]

    def padded(rows):
        x = nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True)
        return x, nn.utils.rnn.pad_sequence([y for _, y in rows], batch_first=True, padding_value=-100)

    class Sequences(Dataset):
        def __len__(self):
            return len(items)

        def __getitem__(self, i):
            return items[i]

    loader = DataLoader(Sequences(), collate_fn=padded)
    kronecker = [functools.partial(kind, fisher=f) for kind in (KFAC, EKFAC) for f in ("exact", "sampled", "empirical")]
    for kind in (ExactGGN, CG, DataInf, *kronecker):
        small = kind(model, 0.1, batch_size=2).fit(loader).pairwise(loader, loader)
        whole = kind(model, 0.1).fit(*padded(items)).pairwise(*padded(items), *padded(items))
        torch.testing.assert_close(small, whole)


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_padding_on_which_no_output_depends_changes_no_score_of_a_transformer(kind: type, fisher: str):
    """K-FAC's moments are means over positions: padded ones moved them, and with them every score, up to twofold."""

    class Texts(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.norm, self.head = nn.Embedding(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)
            layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids):
            padded = ids == 0
            z = self.norm(self.encoder(self.tokens(ids), src_key_padding_mask=padded))
            return self.head(z.masked_fill(padded[..., None], 0).sum(1) / (~padded).sum(1, keepdim=True))

    torch.manual_seed(0)
    model = Texts().double().eval()
    lengths, y = torch.randint(2, 7, (12, 1)), torch.randint(0, 3, (12,))
    ids = torch.randint(1, 6, (12, 6)) * (torch.arange(6) < lengths)
    longer = torch.cat([ids, ids.new_zeros(12, 5)], 1)
    scores = [kind(model, 0.1, fisher=fisher).fit(x, y).self_influence(x, y) for x in (ids, longer)]
    torch.testing.assert_close(*scores)


def test_example_weights_come_as_a_third_item():
    model, (x, y), _ = problem()
    w = torch.rand(len(x))
    make = lambda: EKFAC(model, 0.1, loss=Weighted(CrossEntropy()))  # noqa: E731
    wanted = make().fit(x, (y, w)).self_influence(x, (y, w))
    data = DataLoader(Pairs(x, y, w))
    torch.testing.assert_close(make().fit(data).self_influence(TensorDataset(x, y, w)), wanted)


REFUSED = {
    "masked values": (lambda x, y: (np.ma.masked_less(x.numpy(), 0), y), "x has masked values; fill them in"),
    "masked labels": (lambda x, y: (x, np.ma.masked_equal(y.numpy(), 1)), "y has masked values"),
    "a sparse tensor": (lambda x, y: (x.to_sparse(), y), r"x is a sparse tensor; give x\.to_dense\(\)"),
    "a nested tensor": (
        lambda x, y: (torch.nested.nested_tensor(list(x)), y),
        r"x is a nested tensor; give torch\.stack\(x\.unbind\(\)\)",
    ),
    "labels beyond int64": (lambda x, y: (x, np.full(len(y), 2**64 - 1, np.uint64)), "labels must lie in"),
    "an iterable data set": (lambda x, y: (DataLoader(Stream()),), "IterableDataset has no order to return to"),
    "a sampler": (
        lambda x, y: (DataLoader(Pairs(x, y), sampler=WeightedRandomSampler(torch.ones(len(x)), 5)),),
        r"a sampler or batch_sampler chooses examples; give them as torch\.utils\.data\.Subset",
    ),
    "draws with replacement": (
        lambda x, y: (DataLoader(Pairs(x, y), sampler=RandomSampler(x, replacement=True)),),
        "a sampler or batch_sampler chooses examples",
    ),
    "an order of its own": (
        lambda x, y: (DataLoader(Pairs(x, y), sampler=Backwards(x)),),
        "a sampler or batch_sampler",
    ),
    "a loader that changes what it yields": (lambda x, y: (Doubling(Pairs(x, y)),), "with an __iter__ of its own"),
    "complex labels": (lambda x, y: (x, y + 1j), "y is complex; give real numbers"),
    "items of several x": (lambda x, y: (Several(x, x, y),), "an item's x is several; give them as a dict"),
    "items that make no batch": (lambda x, y: (Pairs(x, [None] * len(x)),), "its items cannot be made a batch: "),
    "items without labels": (lambda x, y: (Pairs(x),), r"items must be \(x, y\)"),
    "no labels at all": (lambda x, y: (x,), "need x and y, or a DataLoader or Dataset"),
    "a NaN in the last item": (
        lambda x, y: (Pairs(torch.where(torch.arange(len(x))[:, None] == len(x) - 1, torch.nan, x), y),),
        "x must be finite",
    ),
    "a label out of range in the last item": (
        lambda x, y: (Pairs(x, torch.where(torch.arange(len(y)) == len(y) - 1, 9, y)),),
        r"labels must lie in 0\.\.3",
    ),
    "a dict of unlike lengths": (lambda x, y: ({"x": x, "z": x[1:]}, y), "as many examples in each tensor"),
}


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize(("which", "length"), [("x", 12), ("x", 11), ("y", 5), ("y", 4)])
def test_what_a_refusal_of_a_nested_tensor_names_is_taken(layout, which, length):
    """Before: a call without the padding that it needs."""
    wide = nn.Sequential(nn.Unflatten(1, (1, 12)), nn.Linear(12, 15), nn.Flatten(), nn.Unflatten(1, (5, 3))).double()
    given = {"x": torch.randn(8, 12).double(), "y": torch.arange(40).view(8, 5) % 3}
    rows = [row[:length] if i else row for i, row in enumerate(given[which])]
    given[which] = torch.nested.nested_tensor(rows, layout=layout)
    with pytest.raises(UserError, match="is a nested tensor; give ") as caught:
        EKFAC(wide, 0.1).fit(*given.values())
    given[which] = eval(str(caught.value).partition("; give ")[2], {"torch": torch}, given)
    assert EKFAC(wide, 0.1).fit(*given.values()).self_influence(*given.values()).isfinite().all()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_labelled_set_is_refused_in_one_line(case):
    change, words = REFUSED[case]
    model, train, _ = problem()
    estimator = EKFAC(model, 0.1, batch_size=5).fit(*train)
    with pytest.raises(UserError, match=words) as caught:
        estimator.self_influence(*change(*train))
    assert "\n" not in str(caught.value)


def test_a_tensor_data_set_with_items_of_its_own_is_read_by_these():
    """Before: its tensors were taken as they lie, and what it makes of them was passed over in silence."""
    model, (x, y), _ = problem()
    given = Normalised(x, y)
    wanted = ExactGGN(model, 0.1).fit(x / 2, y).self_influence(x / 2, y)
    torch.testing.assert_close(ExactGGN(model, 0.1).fit(given).self_influence(given), wanted)
    fitted, half = GradDot(model).fit(x, y), FirstHalf(x, y)
    torch.testing.assert_close(fitted.self_influence(half), fitted.self_influence(x, y)[: len(half)])


@pytest.mark.parametrize(("models", "n"), [(2, 2), (2, 3), (3, 3)])  # of three outputs
@pytest.mark.parametrize("kind", ["soft", "squared", "weighted"])
def test_as_many_targets_as_models_of_a_stack_are_targets_of_all_models(kind, models, n):
    """Before: (n, C) of n = S were taken for (S, n) of each model, and refused or a traceback."""
    loss = {"soft": None, "squared": SquaredError(), "weighted": Weighted(CrossEntropy())}[kind]
    torch.manual_seed(0)
    stack = Stack(nn.Sequential(nn.Linear(4, 3)), models, dtype=torch.float64)
    x, x_test = torch.randn(8, 4).double(), torch.randn(n, 4).double()
    y, y_test = (torch.randn(len(of), 3).double().softmax(1) for of in (x, x_test))
    if kind == "weighted":
        y, y_test = (y, torch.rand(8).double()), (y_test, torch.rand(n).double())
    both = ExactGGN(stack, 0.1, loss=loss).fit(x, y).pairwise(x, y, x_test, y_test)
    for scores, model in zip(both, list(stack), strict=True):
        alone = ExactGGN(model.double().eval(), 0.1, loss=loss).fit(x, y).pairwise(x, y, x_test, y_test)
        torch.testing.assert_close(scores, alone)


def test_an_argument_too_many_is_refused():
    model, train, _ = problem()
    with pytest.raises(UserError, match="x_val, y_val: 1 more argument than a set takes"):
        EKFAC(model, 0.1).fit(*train).influence_on(Pairs(*train), *train, train[0])


@pytest.mark.parametrize("name", KINDS)
def test_the_top_k_are_those_of_pairwise(name):
    model, train, val = problem()
    estimator = KINDS[name](model)
    options = {} if name in ("TRAK", "TracIn") else {"batch_size": 5}
    for key, value in options.items():
        setattr(estimator, key, value)
    estimator.fit(*train)
    pairs, top = estimator.pairwise(*train, *val), estimator.top(*train, *val, k=4)
    torch.testing.assert_close(top.harm, pairs.sort(1, descending=True).values[:, :4])
    torch.testing.assert_close(top.help, pairs.sort(1).values[:, :4])
    torch.testing.assert_close(pairs.gather(1, top.harmful), top.harm)
    torch.testing.assert_close(pairs.gather(1, top.helpful), top.help)
    with pytest.raises(UserError, match=r"k: must lie in 1\.\.23"):
        estimator.top(*train, *val, k=24)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("TRAK", "TracIn")])
def test_layers_scores_add_up_to_the_models(name):
    model, train, val = problem()
    estimator = KINDS[name](model).fit(*train)
    names = ["2"] if name == "LastLayerGGN" else ["0", "2"]
    for verb, sets in (("self_influence", train), ("influence_on", (*train, *val)), ("pairwise", (*train, *val))):
        if name == "GradCos" and verb == "self_influence":
            continue
        layers = getattr(estimator, verb)(*sets, by_layer=True)
        assert list(layers) == names
        torch.testing.assert_close(sum(layers.values()), getattr(estimator, verb)(*sets))


def test_a_layers_score_is_what_the_layer_alone_would_give_where_curvature_is_by_layer():
    model, train, _ = problem()
    layers = EKFAC(model, 0.1).fit(*train).self_influence(*train, by_layer=True)
    alone = EKFAC(model, 0.1, leave_out=["0"]).fit(*train).self_influence(*train)
    torch.testing.assert_close(layers["2"], alone)


def stack():
    module = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 4))
    trained = Stack(module, 2, dtype=torch.float64)
    for value in trained.parameters.values():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 2)
    return trained


@pytest.mark.parametrize("build", [lambda: problem()[0], stack])
@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("TRAK", "TracIn")])
def test_a_saved_estimator_scores_as_before(name, build, tmp_path):
    model = build()
    _, train, val = problem()
    if name == "ExactHessian" and isinstance(model, Stack):
        return
    fitted, path = KINDS[name](model).fit(*train), tmp_path / "fitted.safetensors"
    if name in ("DataInf", "CG", "LiSSA"):
        with pytest.raises(UserError, match="needs its training set at every solve"):
            fitted.save(path)
        return
    fitted.save(path)
    loaded = influence.load(path, model)
    same(scored(loaded, train, val), scored(fitted, train, val))
    assert vars(loaded).get("newton_gain_") is None or torch.equal(loaded.newton_gain_, fitted.newton_gain_)
    torch.testing.assert_close(
        scored(loaded.redamped(7.0), train, val)["influence_on"],
        scored(fitted.redamped(7.0), train, val)["influence_on"],
    )


def test_load_refuses_what_was_not_saved_on_this_model_with_this_loss(tmp_path):
    model, train, _ = problem()
    path = tmp_path / "fitted.safetensors"
    with pytest.raises(UserError, match="call fit"):
        EKFAC(model).save(path)
    EKFAC(model, 0.1).fit(*train).save(path)
    with pytest.raises(UserError, match=r"loss: .* was fitted with CrossEntropy"):
        influence.load(path, model, loss=SquaredError())
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-9
    with pytest.raises(UserError, match=r"model: it is not the one that .*0\.weight"):
        influence.load(path, model)
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01.")
    for other in ("pickle", "absent"):
        with pytest.raises(UserError, match="is no estimator saved by save"):
            influence.load(tmp_path / other, model)


POISSON = "def poisson(f, y):\n    return (f.exp() - y * f).sum(1)\n"


def loss_of(folder, source):
    """A function of a module of this source, loaded anew: as another process has it."""
    (folder / "mine.py").write_text(source)
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Custom(module.poisson)


@pytest.mark.parametrize(("changed", "loads"), [("", True), ("\n# a comment", True), ("* 2", False)])
def test_an_estimator_of_a_loss_of_ones_own_is_loaded_where_that_has_the_same_code(tmp_path, changed, loads):
    """Before: it was told by the address of its function, so no other process could load it."""
    model, (x, _), _ = problem()
    y, path = torch.ones(len(x), 4), tmp_path / "fitted.safetensors"
    fitted = EKFAC(model, 0.1, loss=loss_of(tmp_path, POISSON)).fit(x, y)
    fitted.save(path)
    loss = loss_of(tmp_path, POISSON.rstrip() + changed + "\n")
    if loads:
        loaded = influence.load(path, model, loss=loss)
        torch.testing.assert_close(loaded.self_influence(x, y), fitted.self_influence(x, y))
    else:
        with pytest.raises(UserError, match=r"loss: .* was fitted with Custom\(mine\.poisson, code"):
            influence.load(path, model, loss=loss)


def test_a_loss_that_is_no_function_of_a_module_is_told_by_its_address():
    scale = 2.0

    def scaled(f, y):
        return scale * f.square().sum(1)

    for function in (scaled, lambda f, y: f.sum(1), functools.partial(scaled, y=None)):
        assert "0x" in repr(Custom(function))


class Terminal(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_pass_shows_a_bar_at_a_terminal_and_nothing_in_a_pipe(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal(terminal))
    monkeypatch.setattr(feed, "_PATIENCE", 0.0)
    batches = [Batch(torch.zeros(1), torch.zeros(1), start, "x") for start in range(5)]
    assert list(feed.watched(iter(batches), 5, "EKFAC")) == batches
    assert ("EKFAC" in sys.stderr.getvalue()) is terminal
    assert feed._passes == 0
