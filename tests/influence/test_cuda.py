"""The influence code on a GPU: the CPU's results, without waiting for the device in a batch."""

import pytest
import torch
from influence_oracle import MODELS, problem

from datalab.influence import CG, EKFAC, KFAC, Arnoldi, DataInf, ExactGGN, ExactHessian, GradCos, GradDot, LastLayerGGN
from datalab.influence.estimator import computing

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning"),
]
KINDS = {
    "ExactGGN": ExactGGN,
    "ExactHessian": lambda m, d: ExactHessian(m, 5.0),
    "LastLayerGGN": LastLayerGGN,
    "KFAC": KFAC,
    "EKFAC": EKFAC,
    "DataInf": DataInf,
    "CG": lambda m, d: CG(m, d, tolerance=1e-7),
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
    for ours, wanted in zip(
        (on_gpu.self_influence(*there[:2]), on_gpu.influence_on(*there), on_gpu.pairwise(*there)), expected, strict=True
    ):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


def test_no_batch_waits_for_the_device():
    """Synchronising is an error while batches are scored; before and after, labels and finiteness are looked at."""
    model, (x, y), _ = problem("an MLP")
    estimator = EKFAC(model.cuda(), 0.05, batch_size=5).fit(x.cuda(), y.cuda())
    batches = list(estimator._batches(*estimator._checked(["x, y"], (x.cuda(), y.cuda()))))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            estimator._self_influence(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tf32_is_off_and_the_callers_choice_is_restored():
    before = torch.backends.cuda.matmul.fp32_precision
    with computing():
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == before
