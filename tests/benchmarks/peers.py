"""The peer libraries behind one interface, each in its best setting: ``python tests/benchmarks/peers.py [LIBRARY]``.

``PEERS`` lists them; ``Peer.fit(model, x, y, damping)`` takes an ``nn.Sequential`` classifier with cross-entropy and
returns ``self_influence(x, y)`` (n,) and ``pairwise(x, y, x_test, y_test)`` (n_test, n), in our units:

    self-influence g_i' (H + d I)^-1 g_i,        influence of i on t  -g_t' (H + d I)^-1 g_i,

H the mean over the training set; without H for the undamped methods. A peer's sign and scale are converted, its
arithmetic is not corrected. A library is imported when it is first fitted; no other is needed. Run as a script, every
installed peer is held against a brute force in float64 and timed on digits, on one thread.

pyDVL 0.10.0 declares numpy < 2 but runs with numpy 2; 0.9.2 installs and does not import. So: ``pip install
"pydvl[influence]==0.9.2" more-itertools``, then ``pip install --no-deps pydvl==0.10.0``.
"""

import contextlib
import copy
import gc
import io
import itertools
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

Own = Callable[[Tensor, Tensor], Tensor]
Pairs = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_NUMBERS = 1 << 26  # of gradients or of intermediate results held at a time


class Fitted:
    """A fitted peer; results are detached and in our units."""

    def __init__(self, own: Own, pairs: Pairs, frozen: bool):
        self._own, self._pairs, self._frozen = own, pairs, frozen

    def self_influence(self, x: Tensor, y: Tensor) -> Tensor:
        with _calm(x.dtype, self._frozen):
            return self._own(x, y).detach()

    def pairwise(self, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        with _calm(x.dtype, self._frozen):
            return self._pairs(x, y, x_test, y_test).detach()


@dataclass(frozen=True)
class Peer:
    """A method of a library.

    ``setting`` says how it is used; ``reference`` names the brute force that it aims at (a key of ``references``);
    ``exact`` that it should agree to rounding. Above ``max_parameters`` it does not fit in memory.
    """

    library: str
    method: str
    setting: str
    build: Callable[[nn.Sequential, Tensor, Tensor, float], tuple[Own, Pairs]]
    reference: str
    exact: bool = False
    max_parameters: int = 10**9

    def fit(self, model: nn.Sequential, x: Tensor, y: Tensor, damping: float, frozen: bool = True) -> Fitted:
        """Fit on the training set; ``model`` is copied and left as it is. ``frozen`` spares the collector all that was
        there before the call: kronfluence collects garbage three times a call, which takes longer than the scores if
        it has to walk all of torch."""
        with _calm(x.dtype, frozen):
            return Fitted(*self.build(copy.deepcopy(model).eval(), x, y, damping), frozen)


@contextlib.contextmanager
def _calm(dtype: torch.dtype, frozen: bool = True) -> Iterator[None]:
    """No warnings or progress bars; buffers that a library makes without a dtype get the model's."""
    before, level = torch.get_default_dtype(), logging.root.manager.disable
    if frozen:
        gc.freeze()
    torch.set_default_dtype(dtype)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if frozen:
            gc.unfreeze()
        logging.disable(level)
        torch.set_default_dtype(before)


class _Rows(TensorDataset):
    """Rows taken at once rather than one by one, which would take longer than the influence itself."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [t[indices] for t in self.tensors]


def _as_is(batch: list[Tensor]) -> list[Tensor]:
    return batch


def _loader(x: Tensor, y: Tensor, batch_size: int | None = None) -> DataLoader:
    return DataLoader(_Rows(x, y), batch_size=batch_size or len(x), collate_fn=_as_is)


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _batch(model: nn.Module, device: torch.device | None = None) -> int:
    """Rows whose gradients fit in memory; on a CPU more of them at a time are slower, not faster."""
    numbers, most = (_NUMBERS << 4, 4096) if device is not None and device.type == "cuda" else (_NUMBERS, 256)
    return min(max(numbers // _size(model), 1), most)


def _in_batches(own: Own, rows: int) -> Own:
    def batched(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([own(a, b) for a, b in zip(x.split(rows), y.split(rows), strict=True)])

    return batched


def _largest_eigenvalue(model: nn.Module, x: Tensor, y: Tensor, steps: int = 30) -> float:
    """Of the Hessian of the mean loss, by power iteration: the series of LiSSA diverges without it."""
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    gradient = grad(lambda p: cross_entropy(functional_call(model, p, x), y))
    generator = torch.Generator().manual_seed(0)
    v = {k: torch.randn(p.shape, generator=generator, dtype=p.dtype) for k, p in parameters.items()}
    norm = 1.0
    for _ in range(steps):
        norm = float(torch.stack([t.square().sum() for t in v.values()]).sum().sqrt())
        v = jvp(gradient, (parameters,), ({k: t / norm for k, t in v.items()},))[1]
    return float(torch.stack([t.square().sum() for t in v.values()]).sum().sqrt())


def _kronfluence(
    strategy: str, empirical: bool, model: nn.Sequential, x: Tensor, y: Tensor, damping: float
) -> tuple[Own, Pairs]:
    """Gradients of the sum over a batch; every factor in the model's dtype; scores are positive for g_t' H^-1 g_i.

    Covariances are means over rows (and positions), eigenvalues means over examples of squares, damping is added to
    those, so the Fisher is the mean and nothing is rescaled. Factors go to a temporary folder: it cannot do without.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    class Classification(Task):
        def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
            logits, labels = model(batch[0]), batch[1]
            if sample:
                labels = torch.multinomial(logits.detach().softmax(1), 1).flatten()
            return cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    rows, task = _batch(model, x.device), Classification()
    factor = FactorArguments(
        strategy=strategy,
        use_empirical_fisher=empirical,
        covariance_max_examples=None,
        lambda_max_examples=None,
        activation_covariance_dtype=x.dtype,
        gradient_covariance_dtype=x.dtype,
        per_sample_gradient_dtype=x.dtype,
        lambda_dtype=x.dtype,
    )
    score = ScoreArguments(
        damping_factor=damping, per_sample_gradient_dtype=x.dtype, precondition_dtype=x.dtype, score_dtype=x.dtype
    )
    folder = tempfile.TemporaryDirectory()
    analyzer = Analyzer(
        "peer", prepare_model(model, task), task, cpu=not x.is_cuda, log_level=logging.ERROR, disable_tqdm=True,
        output_dir=folder.name,
    )  # fmt: skip
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=_as_is))
    torch.manual_seed(0)
    analyzer.fit_all_factors("factors", _Rows(x, y), per_device_batch_size=rows, factor_args=factor)

    # ``folder`` lives, and its files stay, as long as this function
    def own(x: Tensor, y: Tensor, folder: tempfile.TemporaryDirectory = folder) -> Tensor:
        analyzer.compute_self_scores(
            "own", "factors", _Rows(x, y), per_device_train_batch_size=rows, score_args=score, overwrite_output_dir=True
        )
        return analyzer.load_self_scores("own")["all_modules"]

    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        analyzer.compute_pairwise_scores(
            "pairs", "factors", _Rows(x_test, y_test), _Rows(x, y), per_device_query_batch_size=rows,
            per_device_train_batch_size=rows, score_args=score, overwrite_output_dir=True,
        )  # fmt: skip
        return -analyzer.load_pairwise_scores("pairs")["all_modules"]

    return own, pairs


def _pydvl(method: str, model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> tuple[Own, Pairs]:
    """Mean Hessian plus ``regularization``; values are positive for g_t' H^-1 g_i.

    The training set is one batch, except where every batch is weighted by its size: the operators otherwise average
    batches of different sizes as equals. There is no self-influence: it is the diagonal of the pairwise values.
    """
    from pydvl.influence import torch as pydvl

    loss, rows, data = cross_entropy, 128, _loader(x, y)
    if method == "EK-FAC":
        influence = pydvl.EkfacInfluence(model, update_diagonal=True, hessian_regularization=damping)
    elif method == "direct":
        # the solver factorises anew at every call: one call for all rows; the Hessian is mapped over P tangents
        rows, data = max(_NUMBERS // _size(model), 1), _loader(x, y, 64)
        influence = pydvl.DirectInfluence(model, loss, damping)
    elif method == "CG":
        # rtol**2 * norm is the residual's bound
        influence = pydvl.CgInfluence(
            model, loss, damping, rtol=1e-2, maxiter=200, solve_simultaneously=True, warn_on_max_iteration=False
        )
    elif method == "LiSSA":
        data = DataLoader(TensorDataset(x, y), batch_size=len(x))  # it builds a loader of its own out of this
        scale = 1.1 * (_largest_eigenvalue(model, x, y) + damping)
        influence = pydvl.LissaInfluence(
            model, loss, damping, maxiter=_lissa_steps(scale, damping), scale=scale, warn_on_max_iteration=False
        )
    elif method == "Arnoldi":
        influence = pydvl.ArnoldiInfluence(
            model, loss, damping, rank=min(100, _size(model) - 2), tol=1e-4, use_woodbury=True
        )
    else:
        influence = pydvl.NystroemSketchInfluence(model, loss, damping, rank=min(200, _size(model) // 2))
    torch.manual_seed(0)
    influence = influence.fit(data)

    def own(x: Tensor, y: Tensor) -> Tensor:
        return influence.influences(x, y).diagonal()

    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        factors = influence.influence_factors(x_test, y_test)
        if not isinstance(factors, Tensor):
            (factors,) = factors.values()
        parts = zip(x.split(_batch(model)), y.split(_batch(model)), strict=True)
        return -torch.cat([influence.influences_from_factors(factors, a, b) for a, b in parts], 1)

    return _in_batches(own, rows), pairs


def _lissa_steps(scale: float, damping: float) -> int:
    """Until the slowest direction has converged to 1e-3, at most 2,000."""
    return min(int(7 * scale / damping) + 1, 2000)


def _dattri_task(model: nn.Sequential, margin: bool = False):
    """The loss, or for TRAK log p / (1 - p), of a batch or of a single unbatched example: it calls with both."""
    from dattri.task import AttributionTask

    dtype = next(model.parameters()).dtype

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        # LiSSA casts everything to float32, labels too
        logits, labels = functional_call(model, parameters, data[0].to(dtype)), data[1].long()
        if not margin:
            return cross_entropy(logits, labels)
        own = labels.unsqueeze(-1)
        return (logits.gather(-1, own).squeeze(-1) - logits.scatter(-1, own, -torch.inf).logsumexp(-1)).mean()

    return AttributionTask(loss_func=loss, model=model, checkpoints=copy.deepcopy(model.state_dict()))


def _dattri(method: str, model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> tuple[Own, Pairs]:
    """Mean Hessian or Fisher plus damping, of ONE full batch (several would be inverted one by one and summed).

    ``attribute`` is g_i' H^-1 g_t, (n, n_test); the test side is solved anew for every batch of the training side, so
    that is one batch too. ``self_attribute`` works on one batch only and is called on one batch at a time.
    """
    from dattri import algorithm
    from dattri.algorithm import influence_function

    task, rows = _dattri_task(model), _batch(model)
    if method == "explicit":
        rows = max(_NUMBERS // _size(model), 1)  # the Hessian is formed anew for every batch
        attributor = influence_function.IFAttributorExplicit(task, regularization=damping)
    elif method == "CG":
        # it cannot stop, and divides 0 by 0 once converged: the bound for a residual of 1e-4
        rows = 16
        scale = _largest_eigenvalue(model, x, y) + damping
        attributor = influence_function.IFAttributorCG(
            task, max_iter=int(5 * (scale / damping) ** 0.5) + 1, regularization=damping
        )
    elif method == "LiSSA":
        rows = 16
        scale = 1.1 * (_largest_eigenvalue(model, x, y) + damping)
        attributor = influence_function.IFAttributorLiSSA(
            task, batch_size=len(x), recursion_depth=_lissa_steps(scale, damping), damping=damping / scale,
            scaling=scale,
        )  # fmt: skip
    elif method == "Arnoldi":
        # it asks for a spectrum without negative eigenvalues, of which it takes the root: the Krylov space's upper half
        attributor = influence_function.IFAttributorArnoldi(
            task, proj_dim=min(100, _size(model) // 2), max_iter=min(200, _size(model)), regularization=damping
        )
    elif method == "DataInf":
        rows = 8  # it holds rows ** 2 gradients
        attributor = influence_function.IFAttributorDataInf(task, regularization=damping)
    elif method == "EK-FAC":
        attributor = influence_function.IFAttributorEKFAC(task, damping=damping)
    else:
        attributor = algorithm.TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
        attributor.projector_kwargs = None  # by default gradients are projected to 512 dimensions
    torch.manual_seed(0)
    if method != "TracIn":
        attributor.cache(_loader(x, y))
    if method == "Arnoldi":
        attributor.self_attribute(_loader(x[:1], y[:1]))  # the eigenspace is found at first use

    # without no_grad the solvers keep the graph of all their iterations
    @torch.no_grad()
    def own(x: Tensor, y: Tensor) -> Tensor:
        return attributor.self_attribute(_loader(x, y))

    @torch.no_grad()
    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        return -attributor.attribute(_loader(x, y), _loader(x_test, y_test, rows)).T

    return _in_batches(own, rows), pairs


def _dattri_trak(model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> tuple[Own, Pairs]:
    """n phi_t' (Phi' Phi + n d / P I)^-1 phi_i (1 - p_i), phi = the margin's gradient / sqrt(P) in 512 dimensions.

    Scores are positive where i raises the test margin, that is where more of it lowers the test loss. The factor n
    turns the sum over the training set into a mean, to which d is added in the units of the gradient. It scores the
    training set alone, and always all of it: rows are looked up there.
    """
    from dattri.algorithm import TRAKAttributor

    def probability(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, parameters, data[0]), data[1]).neg().exp()

    n, train = len(x), _loader(x, y)
    index = {row.numpy().tobytes(): i for i, row in enumerate(x)}

    def attributor() -> TRAKAttributor:
        return TRAKAttributor(
            _dattri_task(model, margin=True), probability, projector_kwargs={"proj_dim": 512},
            regularization=n * damping / _size(model),
        )  # fmt: skip

    def among_training(x: Tensor) -> list[int]:
        return [index[row.numpy().tobytes()] for row in x]

    cached = attributor()
    cached.cache(train)

    def own(x: Tensor, y: Tensor) -> Tensor:
        # once cached, self_attribute fails on every argument
        return n * attributor().self_attribute(train).flatten()[among_training(x)]

    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        return -n * cached.attribute(_loader(x_test, y_test)).T[:, among_training(x)]

    return own, pairs


def _captum_tracin(method: str, model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> tuple[Own, Pairs]:
    """One checkpoint of weight one: sum_l g_t' g_i, positive where i lowers the loss. Nothing is fitted."""
    from captum import influence

    rows = _batch(model)
    common = {"checkpoints_load_func": lambda model, checkpoint: 1.0, "loss_fn": nn.CrossEntropyLoss(reduction="sum")}

    def peer(x: Tensor, y: Tensor):
        train = _loader(x, y, rows)
        if method == "TracInCP":
            return influence.TracInCP(model, train, ["here"], **common, sample_wise_grads_per_batch=True)
        return influence.TracInCPFast(model, model[-1], train, ["here"], **common)

    def own(x: Tensor, y: Tensor) -> Tensor:
        return peer(x, y).self_influence(_loader(x, y, rows))

    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        return -peer(x, y).influence((x_test, y_test))

    return own, pairs


def _captum_hessian(method: str, model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> tuple[Own, Pairs]:
    """Hessian of the SUM over the training set: ``hessian_reg`` is n d, and scores are multiplied by n.

    Scores are positive for g_t' H^-1 g_i. Per-example gradients come from hooks, not from a loop over examples.
    Directions beyond the leading ones are left out, not divided by d.
    """
    from captum.influence import NaiveInfluenceFunction
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction  # not exported

    rows, n = _batch(model), len(x)
    common = {
        "checkpoints_load_func": lambda model, checkpoint: 1.0,
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "sample_wise_grads_per_batch": True,
        "hessian_reg": n * damping,
        "hessian_inverse_tol": 0.0,
    }
    if method == "Arnoldi":
        peer = ArnoldiInfluenceFunction(
            model, _loader(x, y, rows), "here", **common, projection_dim=100, arnoldi_dim=200, arnoldi_tol=1e-5 * n
        )
    else:
        peer = NaiveInfluenceFunction(model, _loader(x, y, rows), "here", **common, projection_dim=_size(model))

    def own(x: Tensor, y: Tensor) -> Tensor:
        return n * peer.self_influence(_loader(x, y, rows))

    def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
        peer.train_dataloader = _loader(x, y, rows)
        return -n * peer.influence((x_test, y_test))

    return own, pairs


def _peers() -> tuple[Peer, ...]:
    def kron(method: str, strategy: str, empirical: bool) -> Peer:
        labels = "the given labels" if empirical else "one label sampled per example"
        name = f"{method}, empirical" if empirical else method
        reference = f"{name} Fisher" if empirical else f"{method}, Fisher"
        return Peer(
            "kronfluence", name, f"{labels}, every factor in the model's dtype, its self-scores",
            partial(_kronfluence, strategy, empirical), reference, exact=empirical,
        )  # fmt: skip

    one = "one full batch"
    diagonal = "self: the diagonal of its pairwise values"
    return (
        kron("EK-FAC", "ekfac", True),
        kron("EK-FAC", "ekfac", False),
        kron("K-FAC", "kfac", True),
        kron("K-FAC", "kfac", False),
        Peer("kronfluence", "diagonal, empirical", "the given labels", partial(_kronfluence, "diagonal", True),
             "diagonal, empirical Fisher", exact=True),
        Peer("kronfluence", "identity", "no curvature", partial(_kronfluence, "identity", True), "gradients",
             exact=True),
        Peer("pyDVL", "EK-FAC", f"diagonal updated; {diagonal} of 128 rows", partial(_pydvl, "EK-FAC"),
             "EK-FAC, Fisher"),
        Peer("pyDVL", "direct", "Hessian in batches of 64, all rows in one solve", partial(_pydvl, "direct"), "Hessian",
             exact=True, max_parameters=12_000),
        Peer("pyDVL", "CG", f"{one}, block CG to a residual of 1e-4, {diagonal} of 128 rows", partial(_pydvl, "CG"),
             "Hessian"),
        Peer("pyDVL", "LiSSA", f"{one}, scale from power iteration, at most 2,000 steps", partial(_pydvl, "LiSSA"),
             "Hessian"),
        Peer("pyDVL", "Arnoldi", f"{one}, rank 100, Woodbury", partial(_pydvl, "Arnoldi"), "Hessian"),
        Peer("pyDVL", "Nystroem", f"{one}, rank 200", partial(_pydvl, "Nystroem"), "Hessian"),
        Peer("dattri", "explicit", one, partial(_dattri, "explicit"), "Hessian", exact=True, max_parameters=1_500),
        Peer("dattri", "CG", f"{one}, 5 sqrt(condition) iterations", partial(_dattri, "CG"), "Hessian"),
        Peer("dattri", "LiSSA", f"{one}, scale from power iteration, at most 2,000 steps", partial(_dattri, "LiSSA"),
             "Hessian"),
        Peer("dattri", "Arnoldi", f"{one}, rank 100 of 200 steps", partial(_dattri, "Arnoldi"), "Hessian"),
        Peer("dattri", "DataInf", "all training gradients, by layer", partial(_dattri, "DataInf"), "DataInf",
             exact=True),
        Peer("dattri", "EK-FAC", "the given labels", partial(_dattri, "EK-FAC"), "EK-FAC, empirical Fisher"),
        Peer("dattri", "TracIn", "one checkpoint, not projected", partial(_dattri, "TracIn"), "gradients", exact=True),
        Peer("dattri", "TRAK", "one checkpoint, 512 dimensions", _dattri_trak, "TRAK"),
        Peer("captum", "TracInCP", "gradients from hooks", partial(_captum_tracin, "TracInCP"), "gradients",
             exact=True),
        Peer("captum", "TracInCPFast", "last layer", partial(_captum_tracin, "TracInCPFast"),
             "gradients, last weight", exact=True),
        Peer("captum", "Arnoldi", "rank 100 of 200 steps, gradients from hooks", partial(_captum_hessian, "Arnoldi"),
             "Hessian"),
        Peer("captum", "naive", "all eigenvalues above 0", partial(_captum_hessian, "naive"), "Hessian", exact=True,
             max_parameters=1_500),
    )  # fmt: skip


PEERS = _peers()


def peer(library: str, method: str) -> Peer:
    """The entry of ``PEERS``, by its names there."""
    return next(p for p in PEERS if (p.library, p.method) == (library, method))


def references(model: nn.Sequential, x: Tensor, y: Tensor, damping: float) -> dict[str, tuple[Own, Pairs]]:
    """By brute force, with every gradient and matrix formed: what the peers aim at, by the names they give it."""
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    shapes = [(k, p.shape, p.numel()) for k, p in parameters.items()]
    theta = torch.cat([p.flatten() for p in parameters.values()])
    layers = [m for m in model if isinstance(m, nn.Linear)]

    def logits(theta: Tensor, x: Tensor) -> Tensor:
        values = theta.split([n for _, _, n in shapes])
        return functional_call(model, {k: v.view(s) for (k, s, _), v in zip(shapes, values, strict=True)}, x)

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        return vmap(grad(lambda t, a, b: cross_entropy(logits(t, a), b)), (None, 0, 0))(theta, x, y)

    def blocks(g: Tensor) -> list[Tensor]:
        """By layer, as (m, out, in + 1) with the bias last."""
        parts = iter(g.split([n for _, _, n in shapes], 1))
        return [
            torch.cat([next(parts).view(-1, m.out_features, m.in_features), next(parts)[:, :, None]], 2) for m in layers
        ]

    def flat(parts: list[Tensor]) -> Tensor:
        return torch.cat([t for p in parts for t in (p[:, :, :-1].flatten(1), p[:, :, -1])], 1)

    def solved(solve: Callable[[Tensor], Tensor], of: Callable[[Tensor, Tensor], Tensor] = gradients):
        def own(x: Tensor, y: Tensor) -> Tensor:
            return (solve(of(x, y)) * of(x, y)).sum(1)

        def pairs(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Tensor:
            return -(of(x_test, y_test) @ solve(of(x, y)).T)

        return own, pairs

    def by_layer(fit: Callable[[Tensor, Tensor, Tensor], Callable[[Tensor], Tensor]], weighted: list):
        """``weighted``: the pseudo-gradients of the Fisher, one entry a label, and each row's weight under it."""
        weights = torch.cat([w for w, _ in weighted]) / len(x)
        solvers = [
            fit(torch.cat(part), weights, inputs)
            for *part, inputs in zip(*(blocks(g) for _, g in weighted), moments, strict=True)
        ]
        return solved(lambda g: flat([s(b) for s, b in zip(solvers, blocks(g), strict=True)]))

    def bases(g: Tensor, weights: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # the last column is the output gradient, as the bias's input is 1
        return *torch.linalg.eigh(inputs), *torch.linalg.eigh(g[:, :, -1].T @ (g[:, :, -1] * weights[:, None]))

    def rotated(values: Tensor, q_a: Tensor, q_g: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda v: q_g @ ((q_g.T @ v @ q_a) / (values + damping)) @ q_a.T

    def ekfac(g: Tensor, weights: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        _, q_a, _, q_g = bases(g, weights, inputs)
        return rotated(((q_g.T @ g @ q_a).square() * weights[:, None, None]).sum(0), q_a, q_g)

    def kfac(g: Tensor, weights: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        l_a, q_a, l_g, q_g = bases(g, weights, inputs)
        return rotated(torch.outer(l_g, l_a), q_a, q_g)

    def diagonal(g: Tensor, weights: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda v: v / ((g.square() * weights[:, None, None]).sum(0) + damping)

    def data_inf(g: Tensor, weights: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
        f = g.flatten(1)
        shrink = weights / (damping + f.square().sum(1))
        return lambda v: ((v.flatten(1) - (v.flatten(1) @ f.T * shrink) @ f) / damping).view_as(v)

    moments, h = [], x
    for module in model:
        if isinstance(module, nn.Linear):
            a = torch.cat([h, torch.ones_like(h[:, :1])], 1)
            moments.append((a.T @ a / len(x)).detach())
        h = module(h)
    probabilities = logits(theta, x).softmax(1)
    given = [(torch.ones_like(x[:, 0]), gradients(x, y))]
    every = [(p, gradients(x, torch.full_like(y, c))) for c, p in enumerate(probabilities.T)]
    hessian = jacrev(jacrev(lambda t: cross_entropy(logits(t, x), y)))(theta)
    hessian.diagonal().add_(damping)

    def margins(x: Tensor, y: Tensor) -> Tensor:
        return gradients(x, y) / (1 - logits(theta, x).softmax(1).gather(1, y[:, None]))

    def last_weight(x: Tensor, y: Tensor) -> Tensor:
        return blocks(gradients(x, y))[-1][:, :, :-1].flatten(1)

    phi = margins(x, y)
    kernel = phi.T @ phi / len(x) + damping * torch.eye(len(theta), dtype=x.dtype)
    own, pairs = solved(lambda g: torch.linalg.solve(kernel, g.T).T, margins)

    def surprise(x: Tensor, y: Tensor) -> Tensor:
        return 1 - logits(theta, x).softmax(1).gather(1, y[:, None])[:, 0]

    return {
        "Hessian": solved(lambda g: torch.linalg.solve(hessian, g.T).T),
        "gradients": solved(lambda g: g),
        "gradients, last weight": solved(lambda g: g, last_weight),
        "EK-FAC, empirical Fisher": by_layer(ekfac, given),
        "EK-FAC, Fisher": by_layer(ekfac, every),
        "K-FAC, empirical Fisher": by_layer(kfac, given),
        "K-FAC, Fisher": by_layer(kfac, every),
        "diagonal, empirical Fisher": by_layer(diagonal, given),
        "DataInf": by_layer(data_inf, given),
        "TRAK": (
            lambda x, y: own(x, y) * surprise(x, y),
            lambda x, y, x_test, y_test: pairs(x, y, x_test, y_test) * surprise(x, y),
        ),
    }


def _trained(sizes: tuple[int, ...], x: Tensor, y: Tensor, steps: int) -> nn.Sequential:
    torch.manual_seed(0)
    modules = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b, dtype=x.dtype), nn.ReLU())]
    model = nn.Sequential(*modules[:-1])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model


def _agreement(ours: Tensor, reference: Tensor) -> str:
    """The largest error relative to the largest value, and Spearman's correlation."""
    error = float((ours - reference).abs().max() / reference.abs().max())
    ranks = torch.stack([t.flatten().argsort().argsort().double() for t in (ours, reference)])
    return f"{error:8.1e} {float(torch.corrcoef(ranks)[0, 1]):7.4f}"


def _seconds(run: Callable[[int], object], n: int) -> str:
    """For ``n`` rows: the least of three runs, of one where it takes long; ~ where it would take over a minute:
    extrapolated from 8 and 16 rows."""

    def taken(rows: int) -> float:
        start = time.process_time()
        run(rows)
        return time.process_time() - start

    few = taken(8)
    if few > 1 and (slope := (taken(16) - few) / 8) * n > 60:
        return f"~{few + slope * (n - 8):8.0f}"
    seconds = taken(n)
    return f"{seconds if seconds > 2 else min(seconds, taken(n), taken(n)):9.3f}"


def main(libraries: list[str]) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 8, generator=generator, dtype=torch.float64)
    y = (x[:, :4] + 0.8 * torch.randn(90, 4, generator=generator, dtype=torch.float64)).argmax(1)
    small, tiny_damping, n = _trained((8, 6, 4), x[:60], y[:60], 250), 0.1, 60
    tiny = (x[:n], y[:n], x[n:], y[n:])
    expected = references(small, *tiny[:2], tiny_damping)
    data, labels = load_digits(return_X_y=True)
    parts = train_test_split(data.astype("float32") / 16, labels, train_size=1347, stratify=labels, random_state=0)
    x_train, x_test, y_train, y_test = map(torch.as_tensor, parts)
    thousand = (x_train[:1000], y_train[:1000])
    model, damping = _trained((64, 128, 10), x_train, y_train, 100), 0.01
    print("self-influence and pairwise in float64 against brute force on 8-6-4, n = 60 (largest error, Spearman);")
    print(
        "processor seconds in float32 on digits 64-128-10: fit on 1,347, self-influence of 1,000, 100 targets x 1,000\n"
    )
    print(f"{'':42} {'self':>16} {'pairwise':>16} {'fit':>9} {'self':>9} {'pairwise':>9}  setting")
    for peer in (p for p in PEERS if not libraries or p.library in libraries):
        try:
            fitted = peer.fit(small, *tiny[:2], tiny_damping)
        except ImportError as error:
            print(f"{peer.library:12} {peer.method:29} {error}")
            continue
        own, pairs = expected[peer.reference]
        quality = f"{_agreement(fitted.self_influence(*tiny[:2]), own(*tiny[:2]))} "
        quality += _agreement(fitted.pairwise(*tiny), pairs(*tiny))
        times = f"{'more parameters than fit in memory':>29}"
        if _size(model) <= peer.max_parameters:
            start = time.process_time()
            fitted = peer.fit(model, x_train, y_train, damping)
            taken = time.process_time() - start
            own_time = _seconds(lambda m, f=fitted: f.self_influence(thousand[0][:m], thousand[1][:m]), 1000)
            pair_time = _seconds(lambda m, f=fitted: f.pairwise(*thousand, x_test[:m], y_test[:m]), 100)
            times = f"{taken:9.3f} {own_time} {pair_time}"
        print(f"{peer.library:12} {peer.method:29} {quality} {times}  {peer.setting}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
