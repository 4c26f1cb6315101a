"""A stack of models is scored as each of its models is, in float64."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from datalab import models
from datalab.errors import UserError
from datalab.influence import CG, EKFAC, KFAC, Arnoldi, DataInf, ExactGGN, GradCos, GradDot, LastLayerGGN, LiSSA
from datalab.training import Recipe, fit_many

pytestmark = pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning")
SIZE = 3


@functools.cache
def stack(architecture: str):
    rng = np.random.default_rng(0)
    grid = (1, 4, 4)
    x, x_val = (torch.as_tensor(rng.standard_normal((n, 16))) for n in (30, 8))
    labels = rng.integers(0, 3, (SIZE, 30))  # every model has its own
    module = models.build(architecture, grid, 3, hidden=16)
    trained = fit_many(module, x, labels, None, list(range(SIZE)), Recipe(40, 10))
    return trained, x, torch.as_tensor(labels), x_val, torch.as_tensor(rng.integers(0, 3, 8))


KINDS = {
    "ExactGGN": ExactGGN,
    "LastLayerGGN": LastLayerGGN,
    "KFAC": KFAC,
    "EKFAC": EKFAC,
    "sampled EKFAC": lambda m, **k: EKFAC(m, fisher="sampled", samples=2, **k),
    "DataInf": DataInf,
    "GradDot": GradDot,
    "GradCos": GradCos,
    "CG": lambda m, **k: CG(m, 0.05, tolerance=1e-10, **k),
    "LiSSA": lambda m, **k: LiSSA(m, 0.5, depth=20, **k),
    "Arnoldi": lambda m, **k: Arnoldi(m, 0.05, rank=20, **k),
}


@pytest.mark.parametrize("architecture", ["softmax", "mlp", "cnn"])
@pytest.mark.parametrize("name", KINDS)
def test_a_stack_is_scored_as_each_of_its_models_is(name, architecture):
    trained, x, labels, x_val, y_val = stack(architecture)
    kind = KINDS[name]
    together = kind(trained, l2=1e-3, batch_size=7).fit(x, labels)
    alone = [kind(trained.model(s), l2=1e-3).fit(x, labels[s]) for s in range(SIZE)]
    verbs = ["self_influence", "influence_on", "pairwise"] + ([] if "Grad" in name else ["leave_one_out"])
    for verb in verbs:
        target = () if verb == "self_influence" else (x_val, y_val)
        scores = getattr(together, verb)(x, labels, *target)
        assert len(scores) == SIZE
        for s in range(SIZE):
            wanted = getattr(alone[s], verb)(x, labels[s], *target)
            scale = float(wanted.abs().max())
            torch.testing.assert_close(
                scores[s], wanted, rtol=1e-7, atol=1e-8 * scale, msg=lambda m, v=verb: f"{v}: {m}"
            )


def test_every_model_of_a_stack_has_its_own_automatic_damping():
    trained, x, labels, _, _ = stack("mlp")
    together = EKFAC(trained).fit(x, labels)
    alone = [EKFAC(trained.model(s)).fit(x, labels[s]).damping_ for s in range(SIZE)]
    assert together.damping_.tolist() == pytest.approx(alone)
    assert len(set(alone)) == SIZE


def test_labels_may_be_shared_by_all_models():
    trained, x, labels, _, _ = stack("mlp")
    shared, repeated = EKFAC(trained).fit(x, labels[0]), EKFAC(trained).fit(x, labels[:1].expand(SIZE, -1))
    torch.testing.assert_close(shared.self_influence(x, labels[0]), repeated.self_influence(x, labels[0]))


def test_a_trace_holds_what_hooks_see():
    trained, x, _, _, _ = stack("cnn")
    trace = trained.trace(x)
    g = torch.randn(SIZE, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    found = trace.output_gradients(g)
    for s in range(SIZE):
        model, outputs = trained.model(s), []
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(lambda _, __, out, seen=outputs: seen.append(out) or out.clone())
        wanted = torch.autograd.grad(model(x), outputs, g[s])
        for ours, theirs in zip(found, wanted, strict=True):
            theirs = theirs.flatten(2).mT if theirs.dim() == 4 else theirs[:, None]
            torch.testing.assert_close(ours[s], theirs)


def test_what_a_stack_cannot_do_is_refused():
    trained, x, labels, _, _ = stack("mlp")
    with pytest.raises(UserError, match="neither leave_out nor another dtype"):
        EKFAC(trained, dtype=torch.float32).fit(x, labels)
    with pytest.raises(UserError, match="one model at a time"):
        CG(trained, curvature="hessian").fit(x, labels)
    with pytest.raises(UserError, match="need"):
        EKFAC(trained).fit(x, labels[:2])
