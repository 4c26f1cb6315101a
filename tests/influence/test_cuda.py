"""The influence code on a GPU: the CPU's results, without waiting for the device in a batch."""

import warnings

import pytest
import torch
from influence_oracle import MODELS, problem
from torch.utils.data import TensorDataset

from datalab.influence import (
    CG,
    EKFAC,
    KFAC,
    Arnoldi,
    DataInf,
    ExactGGN,
    ExactHessian,
    GradCos,
    GradDot,
    LastLayerGGN,
    last_layer,
)
from datalab.influence.estimator import computing
from datalab.retraining import fit_softmax

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning"),
]
CG_TOLERANCE = 1e-7
KINDS = {
    "ExactGGN": ExactGGN,
    "ExactHessian": lambda m, d: ExactHessian(m, 5.0),
    "LastLayerGGN": LastLayerGGN,
    "KFAC": KFAC,
    "EKFAC": EKFAC,
    "DataInf": DataInf,
    "CG": lambda m, d: CG(m, d, tolerance=CG_TOLERANCE),
    "Arnoldi": lambda m, d: Arnoldi(m, d, rank=10_000),
    "GradDot": lambda m, d: GradDot(m),
    "GradCos": lambda m, d: GradCos(m),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", KINDS)
def test_a_gpu_scores_as_the_cpu_does(name, model_name, dtype):
    model, train, val = problem(model_name)
    model = model.to(dtype)
    cast = [t.to(dtype) if t.is_floating_point() else t for t in (*train, *val)]
    here = KINDS[name](model, 0.05).fit(*cast[:2])
    expected = here.self_influence(*cast[:2]), here.influence_on(*cast), here.pairwise(*cast)
    there = [t.cuda() for t in cast]
    on_gpu = KINDS[name](model.cuda(), 0.05).fit(*there[:2])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-8
    if name == "CG":  # a solution is as wrong as what its tolerance leaves of the residual, over the damping
        tolerance = max(tolerance, 5 * CG_TOLERANCE / 0.05)
    for ours, wanted in zip(
        (on_gpu.self_influence(*there[:2]), on_gpu.influence_on(*there), on_gpu.pairwise(*there)), expected, strict=True
    ):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


def test_no_batch_waits_for_the_device():
    """Synchronising is an error while batches are scored; before and after, labels and finiteness are looked at."""
    model, (x, y), _ = problem("an MLP")
    estimator = EKFAC(model.cuda(), 0.05, batch_size=5).fit(x.cuda(), y.cuda())
    batches = list(estimator._feed.batches(*estimator._feed.checked(["x, y"], (x.cuda(), y.cuda()))))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            estimator._self_influence(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_softmax_regression_is_refitted_on_the_gpu():
    _, (x, y), _ = problem("softmax regression")
    there = fit_softmax(x.cuda(), y.cuda(), 4, 0.1)
    assert there.weight.is_cuda
    torch.testing.assert_close(there.weight.cpu(), fit_softmax(x, y, 4, 0.1).weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["EKFAC", "LastLayerGGN", "CG"])
def test_data_on_the_cpu_is_scored_on_the_gpu_as_data_that_is_there(name):
    model, train, val = problem()
    here = KINDS[name](model.cuda(), 0.05).fit(*train)
    there = [t.cuda() for t in (*train, *val)]
    torch.testing.assert_close(here.pairwise(*train, *val), KINDS[name](model, 0.05).fit(*there[:2]).pairwise(*there))
    top = here.top(TensorDataset(*train), TensorDataset(*val), k=2)
    assert top.harmful.is_cuda
    assert here.damping_ == 0.05


def test_a_batch_on_a_gpu_is_of_thousands_unless_memory_is_short():
    model, train, _ = problem()
    estimator = EKFAC(model.cuda(), 0.05).fit(*train)
    assert estimator._feed.size == 8192
    assert EKFAC(model, 0.05, batch_size=7).fit(*train)._feed.size == 7


def test_no_stacked_model_waits_for_the_device():
    """As many synchronisations for eight models' last layers as for two."""
    g = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(8, 60, width, generator=g).cuda() for width in (80, 4))
    labels = (torch.arange(60) % 4).cuda()

    def warnings_of(models):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                last_layer.scores_many(features[:models], logits[:models], labels, 1e-3)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return len(caught)

    assert warnings_of(8) == warnings_of(2)


def test_tf32_is_off_and_the_callers_choice_is_restored():
    before = torch.backends.cuda.matmul.fp32_precision
    with computing():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == before
