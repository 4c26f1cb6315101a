"""How fast influence is, beside the peer libraries, on one thread: ``python tests/benchmarks/bench_influence.py``.

All ratios are from one run. Rows grow fourfold until a call takes about half a minute, then every method is timed three
more times in turn and the least counts; what would take longer on all rows is compared per example (column ``n``).
``times ours`` divides by our method that computes the same thing: EK-FAC against our EKFAC with the *exact* Fisher,
which takes ten backward passes in the fit where the peers' take one; the Hessian's solvers against ours on the Hessian.

``--device cuda`` times our own methods on the GPU, and again on one CPU thread, and no peers. ``--quick`` is small.
``--whole`` is of whole models alone (ResNet-18, BERT, GPT-2 with token loss, LoRA, as the tests build them): our error,
and EK-FAC's time beside a forward and backward pass over the same examples, in rounds in turn. ``--by-model`` sets
EK-FAC beside kronfluence's on an MLP, a CNN and a ResNet-18.
"""

import argparse
import copy
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import peers
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datalab import influence, models
from datalab.influence import InfluenceWarning
from datalab.record import figures
from datalab.training import Recipe, fit_many

DAMPING, REPETITIONS, STACK = 0.1, 3, 32
SIZES = (784, 256, 128, 10)
OWN, PAIRS, RATE, ON, AT_ONCE = (
    "self-influence, MLP 784-256-128-10",
    "pairs, digits MLP 64-128-10",
    "arithmetic, MLP 784-256-128-10",
    "influence on a target set, MLP 784-256-128-10",
    f"fit and self-influence, {STACK} digits MLPs",
)
DIGITS_OWN = "self-influence, digits MLP 64-128-10"
COLUMNS = ["task", "library", "method", "setting", "n", "seconds", "microseconds", "times ours", "GFLOP/s", "of matmul"]
COLUMNS += ["fit n", "fit seconds", "fit times ours", "note"]

Fit = Callable[[nn.Sequential, Tensor, Tensor, float], object]
Run = Callable[[int], object]


class Method(NamedTuple):
    """``fit`` returns what has ``self_influence`` and ``pairwise``; ``like`` names our method that does the same.

    ``most`` rows fit in memory.
    """

    library: str
    name: str
    setting: str
    fit: Fit
    like: str
    device: str = "cpu"
    most: int = 10**9


def ours(name: str, setting: str, make: Callable[[nn.Sequential, float], object], device: str = "cpu") -> Method:
    return Method("datalab", name, setting, lambda model, x, y, d: make(model, d).fit(x, y), name, device)


def theirs(library: str, method: str, like: str, frozen: bool = True, **options) -> Method:
    peer = peers.peer(library, method)
    setting = peer.setting
    if library == "kronfluence":
        setting += "; collector frozen" if frozen else "; as shipped"

    def fit(model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> peers.Fitted:
        if (size := sum(p.numel() for p in model.parameters())) > peer.max_parameters:
            raise MemoryError(f"a matrix of {size:,} parameters does not fit in memory")
        return peer.fit(model, x, y, damping, frozen)

    return Method(library, method, setting, fit, like, **options)


def last_layer(model: nn.Sequential) -> list[str]:
    """What to leave out for the last layer alone."""
    return [name for name, module in model[:-1].named_children() if isinstance(module, nn.Linear)]


def lissa(model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> influence.LiSSA:
    """As many steps as the peers' take: until the slowest direction has converged to 1e-3, at most 2,000."""
    fitted = influence.LiSSA(model, damping, curvature="hessian").fit(x, y)
    fitted.depth = min(int(7 * float(fitted.scale_) / damping) + 1, 2000)
    return fitted


def our_methods(device: str = "cpu") -> list[Method]:
    """Every estimator that scores a digits MLP, set as the peers' are."""
    return [
        ours("EKFAC", "exact Fisher", lambda m, d: influence.EKFAC(m, d, fisher="exact"), device),
        ours("KFAC", "exact Fisher", lambda m, d: influence.KFAC(m, d, fisher="exact"), device),
        ours("GradDot", "no curvature", lambda m, d: influence.GradDot(m), device),
        ours("GradDot, last layer", "no curvature", lambda m, d: influence.GradDot(m, leave_out=last_layer(m)), device),
        ours("LastLayerGGN", "exact Gauss-Newton matrix of the last layer", influence.LastLayerGGN, device),
        ours("DataInf", "by layer", influence.DataInf, device),
        ours("TRAK", "one model, 512 dimensions", lambda m, d: influence.TRAK(m, d), device),
        ours("Arnoldi", "Hessian, rank 100 of 200 steps",
             lambda m, d: influence.Arnoldi(m, d, rank=100, curvature="hessian"), device),
        ours("ExactGGN", "exact Gauss-Newton matrix", influence.ExactGGN, device),
        ours("ExactHessian", "exact Hessian", influence.ExactHessian, device),
        ours("CG", "Hessian, to a residual of 1e-4, at most 200 steps",
             lambda m, d: influence.CG(m, d, curvature="hessian", tolerance=1e-4, iterations=200), device),
        Method("datalab", "LiSSA", "Hessian, at most 2,000 steps", lissa, "LiSSA", device),
    ]  # fmt: skip


def their_methods() -> list[Method]:
    like = {
        "EK-FAC": "EKFAC", "EK-FAC, empirical": "EKFAC", "K-FAC": "KFAC", "K-FAC, empirical": "KFAC",
        "diagonal, empirical": "EKFAC", "identity": "GradDot", "direct": "ExactHessian", "explicit": "ExactHessian",
        "naive": "ExactHessian", "Nystroem": "Arnoldi", "TracIn": "GradDot", "TracInCP": "GradDot",
        "TracInCPFast": "GradDot, last layer",
    }  # fmt: skip
    return [theirs(p.library, p.method, like.get(p.method, p.method)) for p in peers.PEERS]


def clock(run: Run, n: int) -> float:
    start = time.perf_counter()
    run(n)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def processor(run: Callable[[], object]) -> float:
    """Seconds of this process, which others on the machine do not lengthen much."""
    start = time.process_time()
    run()
    return time.process_time() - start


def timed(runs: dict[Method, Run], rows: int, share: float, start: int) -> dict[Method, tuple[int, float] | str]:
    """Each run's rows and least seconds, or why it has none.

    Rows grow from ``start`` to ``rows`` while a call takes less than a quarter of ``share`` seconds; a call that takes
    more than ``share`` is not repeated.
    """
    found: dict[Method, tuple[int, float] | str] = {}
    for method, run in runs.items():
        most = min(rows, method.most)
        n = min(start, most)
        try:
            while (seconds := clock(run, n)) < share / 4 and n < most:
                n = min(4 * n, most)
            found[method] = n, seconds
        except Exception as error:  # whatever a peer raises
            found[method] = f"{type(error).__name__}: {error}".split("\n")[0][:100]
    for _ in range(REPETITIONS):
        for method, run in runs.items():
            if not isinstance(found[method], str) and found[method][1] <= share:
                n, seconds = found[method]
                found[method] = n, min(seconds, clock(run, n))
    return found


def scored(task: str, fits: dict, found: dict, device: str, pairs_with: int = 1) -> list[dict[str, object]]:
    """A row of the table for each method; ``pairs_with`` training examples to each of n test examples."""

    def each(times: dict, method: Method | None) -> float:
        entry = times.get(method, "")
        return np.nan if isinstance(entry, str) else entry[1] / entry[0]

    mine = {(m.name, m.device): m for m in fits if m.library == "datalab"}
    rows = []
    for method in fits:
        same = mine[method.like, device]
        missing = next((v for v in (fits[method], found.get(method)) if isinstance(v, str)), "")
        n, seconds = (np.nan, np.nan) if missing else found[method]
        fit_n, fit_seconds = (np.nan, np.nan) if isinstance(fits[method], str) else fits[method]
        rows.append({
            "task": task, "library": method.library, "method": method.name,
            "setting": method.setting + (f"; {method.device}" if device != "cpu" else ""),
            "n": n * pairs_with, "seconds": seconds, "microseconds": each(found, method) / pairs_with * 1e6,
            "times ours": each(found, method) / each(found, same), "fit n": fit_n, "fit seconds": fit_seconds,
            "fit times ours": each(fits, method) / each(fits, same), "note": missing,
        })  # fmt: skip
    return rows


class Times(NamedTuple):
    """What ``timed`` found, by method: of the fits, of self-influence, of pairs with n test examples."""

    fits: dict
    own: dict
    pairs: dict
    kept: dict[Method, object]

    def __or__(self, other: "Times") -> "Times":
        return Times(*(mine | theirs for mine, theirs in zip(self, other, strict=True)))


class Problem(NamedTuple):
    """A model with its training set, and a test set to pair it with or None."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor] | None
    share: float
    first: int  # as many rows, or fewer, are fitted and scored to begin with
    fit_first: int

    def on(self, device: str) -> "Problem":
        test = self.test and (self.test[0].to(device), self.test[1].to(device))
        model = copy.deepcopy(self.model).to(device)
        return self._replace(model=model, x=self.x.to(device), y=self.y.to(device), test=test)

    def times(self, methods: list[Method]) -> Times:
        at = {m.device: self.on(m.device) for m in methods}
        kept: dict[Method, object] = {}

        def fit(method: Method, n: int) -> None:
            there = at[method.device]
            kept[method] = method.fit(there.model, there.x[:n], there.y[:n], DAMPING)

        def own(method: Method, n: int) -> None:
            there = at[method.device]
            kept[method].self_influence(there.x[:n], there.y[:n])

        def pairs(method: Method, n: int) -> None:
            there = at[method.device]
            kept[method].pairwise(there.x, there.y, there.test[0][:n], there.test[1][:n])

        n = len(self.x)
        fits = timed({m: partial(fit, m) for m in methods}, n, self.share, self.fit_first)
        fine = [m for m in methods if not isinstance(fits[m], str)]
        found = timed({m: partial(own, m) for m in fine}, n, self.share, self.first)
        if self.test is None:
            return Times(fits, found, {}, kept)
        runs = {m: partial(pairs, m) for m in fine}
        return Times(fits, found, timed(runs, len(self.test[0]), self.share, self.first), kept)


def blobs(n: int) -> tuple[Tensor, Tensor]:
    """n images of 784 grey values in ten classes, four fifths of them 0 as in MNIST; a tenth of the labels random."""
    generator = torch.Generator().manual_seed(0)
    templates = (torch.rand(10, 784, generator=generator) - 0.6).clamp(min=0) * 2.5
    y = torch.randint(10, (n,), generator=generator)
    x = (templates[y] + 0.3 * torch.randn(n, 784, generator=generator) - 0.3).clamp(0, 1)
    wrong = torch.rand(n, generator=generator) < 0.1
    return x, torch.where(wrong, torch.randint(10, (n,), generator=generator), y)


def trained(sizes: tuple[int, ...], x: Tensor, y: Tensor, steps: int) -> nn.Sequential:
    torch.manual_seed(0)
    modules = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*modules[:-1])
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (128,))
        optimiser.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval()


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x and y of 1,347 training, then of 450 test images of 64 grey values in [0, 1]."""
    data, labels = load_digits(return_X_y=True)
    parts = train_test_split(data.astype("float32") / 16, labels, train_size=1347, stratify=labels, random_state=0)
    x, x_test, y, y_test = map(torch.as_tensor, parts)
    return x, y, x_test, y_test


def large(n: int, share: float) -> Problem:
    x, y = blobs(n)
    return Problem(trained(SIZES, x, y, 100), x, y, None, share, 64, 64)


def small(n: int, n_test: int, hidden: int, share: float) -> Problem:
    x, y, x_test, y_test = digits()
    x, y = x[:n], y[:n]
    model = fit_many(models.mlp((1, 1, 64), 10, hidden), x, y.numpy(), None, [0]).model(0)
    return Problem(model, x, y, (x_test[:n_test], y_test[:n_test]), share, 8, n)


def flops(sizes: tuple[int, ...]) -> int:
    """Of one example's EK-FAC self-influence: forward, back to every layer's output, two rotations a layer, and the
    bilinear form; sums of products count two, biases are included, nonlinearities and the softmax are not."""
    total = 0
    for layer, (n_in, out) in enumerate(itertools.pairwise(sizes)):
        forward, backward = 2 * n_in * out + out, 2 * n_in * out if layer else 0
        rotations = (2 * n_in + 1) * (n_in + 1) + 2 * out * out
        bilinear = out + 2 * out * (n_in + 1) + 3 * (n_in + 1)
        total += forward + backward + rotations + bilinear
    return total


def arithmetic(ekfac: Method, fitted, there: Problem) -> list[dict[str, object]]:
    """EK-FAC's rate beside a matrix product's, and influence on a target set beside a forward and backward pass."""
    model, x, y, share = there.model, there.x, there.y, there.share
    a, b, out = (torch.rand(1024, 1024, device=x.device) for _ in range(3))

    def one_pass(n: int) -> None:
        model.zero_grad()
        for inputs, labels in zip(x[:n].split(512), y[:n].split(512), strict=True):
            cross_entropy(model(inputs), labels, reduction="sum").backward()

    target = x[:1000], y[:1000]
    on = ekfac._replace(setting="1,000 targets")
    product = Method("torch", "mm", "1024 x 1024, float32", None, "")
    passed = Method("torch", "forward + backward", "batches of 512", None, "")
    runs = {
        ekfac: lambda n: fitted.self_influence(x[:n], y[:n]),
        on: lambda n: fitted.influence_on(x[:n], y[:n], *target),
        passed: one_pass,
    }
    found = timed(runs, len(x), share, len(x))
    # as many products as take as long as a call of ours, so that both are the least of the same machine's moods
    found[product] = 1, min(clock(lambda n: torch.mm(a, b, out=out), 1) for _ in range(20 * REPETITIONS))
    rates = {
        ekfac: flops(SIZES) * found[ekfac][0] / found[ekfac][1] / 1e9,
        product: 2 * 1024**3 / found[product][1] / 1e9,
    }
    rows = []
    for task, method, reference in ((RATE, ekfac, None), (RATE, product, None), (ON, on, on), (ON, passed, on)):
        n, seconds = found[method]
        row = {"task": task, "library": method.library, "method": method.name, "setting": method.setting, "n": n}
        row |= {"seconds": seconds, "microseconds": seconds / n * 1e6}
        if reference:
            row["times ours"] = seconds / n / found[reference][1] * found[reference][0]
        else:
            row |= {"GFLOP/s": rates[method], "of matmul": rates[method] / rates[product]}
        rows.append(row)
    return rows


def compared(mlp: Problem, of_digits: Problem, device: str) -> list[dict[str, object]]:
    """Every method on digits, some on the larger MLP."""
    own = [m for at in dict.fromkeys((device, "cpu")) for m in our_methods(at)]
    on_mlp = [m for m in own if m.name in ("EKFAC", "KFAC", "GradDot", "GradDot, last layer")]
    ekfac = own[0]
    if device == "cpu":
        # first, while the other peers are not imported: its three collections a call walk all that is
        shipped = theirs("kronfluence", "EK-FAC", "EKFAC", frozen=False)
        early, early_digits = mlp.times([shipped]), of_digits.times([shipped])
        on_mlp += [
            theirs("kronfluence", "EK-FAC", "EKFAC"),
            theirs("pyDVL", "EK-FAC", "EKFAC"),
            theirs("dattri", "EK-FAC", "EKFAC", most=1024),  # its one batch holds every gradient, several times
            theirs("captum", "TracInCP", "GradDot"),
            theirs("captum", "TracInCPFast", "GradDot, last layer"),
        ]
        on_digits = own + their_methods()
    else:
        early = early_digits = Times({}, {}, {}, {})
        on_digits = own
    times = mlp.times(on_mlp) | early
    rows = scored(OWN, times.fits, times.own, device)
    rows += arithmetic(ekfac, times.kept[ekfac], mlp.on(device))
    del times
    times = of_digits.times(on_digits) | early_digits
    rows += scored(DIGITS_OWN, times.fits, times.own, device)
    return rows + scored(PAIRS, times.fits, times.pairs, device, len(of_digits.x))


def stacked(n: int, share: float, device: str) -> list[dict[str, object]]:
    """EK-FAC of a stack of models at once beside a loop over them."""
    x, y, *_ = (t.to(device) for t in digits())
    x, y = x[:n], y[:n]
    stack = fit_many(models.mlp((1, 1, 64), 10, 128), x, y.cpu().numpy(), None, range(STACK), Recipe(50))

    def at_once(n: int) -> None:
        influence.EKFAC(stack, DAMPING).fit(x[:n], y[:n]).self_influence(x[:n], y[:n])

    def loop(n: int) -> None:
        for model in stack:
            influence.EKFAC(model, DAMPING).fit(x[:n], y[:n]).self_influence(x[:n], y[:n])

    runs = {Method("datalab", "EKFAC", s, None, ""): run for s, run in (("a stack", at_once), ("a loop", loop))}
    found = timed(runs, n, share, n)
    least = next(iter(found.values()))[1]
    return [
        {"task": AT_ONCE, "library": "datalab", "method": "EKFAC", "setting": m.setting, "n": n * STACK,
         "seconds": seconds, "microseconds": seconds / n / STACK * 1e6, "times ours": seconds / least}
        for m, (n, seconds) in found.items()
    ]  # fmt: skip


def architectures() -> ModuleType:
    """Models as people build them: those of the tests."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "influence"))
    import test_influence_architectures

    return test_influence_architectures


def whole_models(n: int, rounds: int) -> pd.DataFrame:
    """A row a model. ``error`` is the largest one of twelve examples' squared gradient norms in float64, relative to
    autograd's, and of EK-FAC's self-influence in float32 relative to float64's; times are of n examples in float32, the
    median of the rounds and the range of each round's ratio to its forward and backward pass.
    """
    built = architectures()
    plain, tokens = influence.losses.CrossEntropy(), influence.losses.CrossEntropy(next_token=True)
    table = []
    for name, width in {"ResNet-18": 8, "BERT": 64, "GPT-2 with token loss": 64, "LoRA": 64}.items():
        model, x = built.BUILDS["GPT-2 with a tied head" if "token" in name else name](width)
        model, y, loss = model.double().eval(), torch.arange(12) % built.CLASSES, None
        of_example = lambda f, i, y=y: cross_entropy(f, y[i])  # noqa: E731
        if "token" in name:
            model, y, loss = model.model, x["input_ids"].masked_fill(x["attention_mask"] == 0, -100), tokens
            of_example = lambda f, i, y=y: cross_entropy(f[:-1], y[i, 1:], reduction="sum")  # noqa: E731
        exact = built.gradients(model, x, of_example).square().sum(1)
        ours = influence.GradDot(model, loss=loss).fit(x, y).self_influence(x, y)
        reference = influence.EKFAC(model, DAMPING, loss=loss, fisher="sampled").fit(x, y).self_influence(x, y)
        model, x = model.float(), x if isinstance(x, dict) else x.float()
        single = influence.EKFAC(model, DAMPING, loss=loss, fisher="sampled").fit(x, y).self_influence(x, y)
        errors = [float(((a - b) / b).abs().max()) for a, b in ((ours, exact), (single.double(), reference))]
        at = torch.arange(n) % 12
        x, y = built.rows(x, at), y[at]

        def one_pass(model=model, x=x, y=y, loss=loss or plain) -> None:
            model.zero_grad()
            for i in range(0, n, 64):
                f, part = built.logits(model, built.rows(x, slice(i, i + 64))), y[i : i + 64]
                loss.value(f, loss.checked("x, y", part, f.shape[1:])).sum().backward()

        kept = influence.EKFAC(model, DAMPING, loss=loss, fisher="sampled", batch_size=64).fit(x, y)
        runs = (one_pass, lambda kept=kept, x=x, y=y: kept.fit(x, y), lambda k=kept, x=x, y=y: k.self_influence(x, y))
        times = np.array([[processor(run) for run in runs] for _ in range(rounds)])
        ratios = times[:, 1:] / times[:, :1]
        row = {"model": name, "parameters": kept._network.n_parameters, "gradient error": errors[0]}
        row |= {"float32 error": errors[1], "pass, ms an example": np.median(times[:, 0]) / n * 1e3}
        for i, verb in enumerate(("fit", "self")):
            low, middle, high = np.percentile(ratios[:, i], (0, 50, 100))
            row[f"{verb}, passes"] = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        table.append(row)
        print(row)
    return pd.DataFrame(table)


def beside_kronfluence(rounds: int) -> pd.DataFrame:
    """EK-FAC with the sampled Fisher by model: kronfluence's processor time over ours, the median and range of rounds.

    Ours takes a ResNet's norms too, kronfluence has none.
    """
    built = architectures()
    torch.manual_seed(0)
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    mlp = nn.Sequential(nn.Linear(784, 256), relu, nn.Linear(256, 128), relu, nn.Linear(128, 10))
    convolutions = nn.Conv2d(1, 16, 3, padding=1), relu, pool, nn.Conv2d(16, 32, 3, padding=1), relu, pool
    cnn = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 49, 10))
    resnet, table = built.resnet18(8)[0], []
    for name, model, shape, n, tests in (
        ("MLP 784-256-128-10", mlp, (784,), 256, 32),
        ("CNN, two convolutions of 16 and 32", cnn, (1, 28, 28), 512, 64),
        ("ResNet-18, an eighth as wide", resnet, (3, 32, 32), 32, 4),
        ("ResNet-18, an eighth as wide", resnet, (3, 32, 32), 256, 16),
    ):
        torch.manual_seed(n)  # of some draws kronfluence's eigenvectors do not converge
        model, x, y = model.float().eval(), torch.randn(n, *shape), torch.arange(n) % built.CLASSES

        def ours(model=model, x=x, y=y) -> influence.EKFAC:
            return influence.EKFAC(model, DAMPING, fisher="sampled").fit(x, y)

        def theirs(model=model, x=x, y=y) -> peers.Fitted:
            return peers.peer("kronfluence", "EK-FAC").fit(model, x, y, DAMPING)

        fitted = theirs(), ours()
        own = [partial(of.self_influence, x, y) for of in fitted]
        pairs = [partial(of.pairwise, x, y, x[:tests], y[:tests]) for of in fitted]
        row = {"model": name, "examples; tests": f"{n}; {tests}"}
        for verb, runs in {"fit": (theirs, ours), "self-influence": own, "pairs": pairs}.items():
            ratios = [processor(runs[0]) / processor(runs[1]) for _ in range(rounds)]
            low, middle, high = np.percentile(ratios, (0, 50, 100))
            row[verb] = f"{middle:.3g} [{low:.3g}, {high:.3g}]"
        table.append(row)
        print(row)
    return pd.DataFrame(table)


def short(value: float) -> str:
    """Three significant digits; nothing for what is not there."""
    return "" if pd.isna(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def report(table: pd.DataFrame) -> None:
    """Print each task's rows, without the columns that it leaves empty."""
    for task, rows in table.groupby("task", sort=False):
        print(f"\n{task}")
        rows = rows.drop(columns="task").replace("", np.nan).dropna(axis=1, how="all")
        numbers = dict.fromkeys(rows.select_dtypes("number"), short)
        print(rows.to_string(index=False, formatters=numbers, na_rep="", max_colwidth=60))


def figure(table: pd.DataFrame) -> plt.Figure:
    """Microseconds per example or pair, a panel a task, fastest first; ours filled, the peers' hollow."""
    figures.style()
    tasks = [t for t in (OWN, DIGITS_OWN, PAIRS) if t in set(table["task"])]
    parts = [table[table["task"] == t].dropna(subset="microseconds").sort_values("microseconds") for t in tasks]
    height = 0.22 * sum(len(p) for p in parts) + 1.1 * len(parts)
    drawn, every = plt.subplots(
        len(parts), figsize=(7.5, height), height_ratios=[len(p) + 2 for p in parts], layout="constrained"
    )
    for axes, task, part in zip(np.atleast_1d(every), tasks, parts, strict=True):
        for place, row in enumerate(part.to_dict("records")):
            mine = row["library"] == "datalab"
            colour = figures.COLOURS[0] if mine else figures.COLOURS[6]
            axes.plot(
                row["microseconds"], place, "o", color=colour, mfc=colour if mine else "white", ms=7 if mine else 6
            )
            ratio = "" if mine else f"   {short(row['times ours'])} x"
            axes.annotate(
                short(row["microseconds"]) + ratio, (row["microseconds"], place), (7, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        settings = part["setting"].where(part["library"].eq("kronfluence") & part["method"].eq("EK-FAC"), "")
        shipped = settings.str.contains("as shipped").map({True: ", as shipped", False: ""})
        axes.set_yticks(range(len(part)), part["library"] + " " + part["method"] + shipped, fontsize=8)
        for label, library in zip(axes.get_yticklabels(), part["library"], strict=True):
            label.set_fontweight("bold" if library == "datalab" else "normal")
        axes.set(xscale="log", ylim=(len(part) - 0.4, -0.6), title=task[0].upper() + task[1:] + " (x: times ours)")
        axes.set_xlim(right=float(part["microseconds"].max()) * 30)
        axes.set_xlabel("microseconds per pair" if task == PAIRS else "microseconds per example")
        axes.grid(axis="y", visible=False)
    return drawn


def save(table: pd.DataFrame, drawn: plt.Figure, name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False)
    for kind, content in figures.render(drawn, name).items():
        (folder / f"{name}.{kind}").write_bytes(content)
    print(f"\nwritten: {folder / name}.csv, .svg, .png")


def versions() -> str:
    found = []
    for name in ("torch", "kronfluence", "pydvl", "dattri", "captum"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--quick", action="store_true", help="few rows, and 32 hidden units on digits: for development")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--whole", action="store_true", help="whole models alone")
    parser.add_argument("--by-model", action="store_true", help="EK-FAC beside kronfluence's alone, by model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", InfluenceWarning)
    if options.by_model:
        print(beside_kronfluence(3).to_markdown(index=False))
        return
    if options.whole:
        if missing := [name for name in ("transformers", "peft") if find_spec(name) is None]:
            parser.error(f"--whole: needs {' and '.join(missing)} (pip install -c constraints.txt {' '.join(missing)})")
        print(whole_models(96, 3).to_markdown(index=False, floatfmt=".2g"))
        return
    few = (2048, 256, 64, 32, 2.0)
    n, n_train, n_test, hidden, share = few if options.quick else (50_000, 1347, 450, 128, 30.0)
    print(f"{versions()}; float32, one thread{', ours on the GPU too' if options.device == 'cuda' else ''}")
    rows = compared(large(n, share), small(n_train, n_test, hidden, share / 3), options.device)
    rows += stacked(n_train, share, options.device)
    table = pd.DataFrame(rows, columns=COLUMNS)
    report(table)
    name = "influence_speed" if options.device == "cpu" else "influence_speed_cuda"
    save(table, figure(table), name, options.out)


if __name__ == "__main__":
    main()
