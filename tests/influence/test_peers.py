"""Our scores are the peer libraries', to rounding, where both compute the same thing; in float64.

Skipped without the ``peers`` extra. What each library computes, and how it is set, is in ``benchmarks/peers.py``.
"""

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("kronfluence")

from benchmarks.peers import Fitted, peer

from datalab.influence import EKFAC, KFAC, DataInf, Estimator, GradDot

pytestmark = [
    pytest.mark.filterwarnings("ignore::datalab.influence.InfluenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
DAMPING, CLASSES, TRAIN, POSITIONS = 0.05, 4, 40, 9
MODELS = {
    "an MLP": lambda: nn.Sequential(nn.Linear(25, 7), nn.ReLU(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, CLASSES)),
    "a CNN": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5, 5)),
        nn.Conv2d(1, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * POSITIONS, CLASSES),
    ),
}
KRONECKER = {"EK-FAC, empirical": EKFAC, "K-FAC, empirical": KFAC}


def problem(name: str) -> tuple[nn.Sequential, list[Tensor]]:
    """A model and x, y, x_test, y_test."""
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x, y = torch.randn(TRAIN + 15, 25, dtype=torch.float64), torch.randint(CLASSES, (TRAIN + 15,))
    return model, [x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]]


def assert_equal(ours: Estimator, theirs: Fitted, sets: list[Tensor], relative: float = 1e-9) -> None:
    for mine, other in (
        (ours.self_influence(*sets[:2]), theirs.self_influence(*sets[:2])),
        (ours.pairwise(*sets), theirs.pairwise(*sets)),
    ):
        assert mine.shape == other.shape
        assert float((mine - other).abs().max() / other.abs().max()) <= relative


@pytest.mark.parametrize(
    ("method", "name"),
    [("EK-FAC, empirical", "an MLP"), ("EK-FAC, empirical", "a CNN"), ("K-FAC, empirical", "an MLP")],
)
def test_with_the_empirical_fisher_we_equal_kronfluence(method, name):
    model, sets = problem(name)
    ours = KRONECKER[method](model, DAMPING, fisher="empirical").fit(*sets[:2])
    assert_equal(ours, peer("kronfluence", method).fit(model, *sets[:2], DAMPING), sets)


def test_on_a_convolution_our_kfac_is_kronfluences_times_the_positions():
    """Ours is KFC's (Grosse & Martens 2016): the moments of inputs and output gradients are sums over the T positions,
    and T divides once. kronfluence divides both by n T, so its eigenvalues are ours divided by T."""
    model, sets = problem("a CNN")
    ours = KFAC(model, DAMPING, fisher="empirical").fit(*sets[:2])
    ours.eigenvalues_[0] = ours.eigenvalues_[0] / POSITIONS
    assert_equal(ours.redamped(DAMPING), peer("kronfluence", "K-FAC, empirical").fit(model, *sets[:2], DAMPING), sets)


def test_data_inf_equals_dattris():
    pytest.importorskip("dattri")
    model, sets = problem("an MLP")
    theirs = peer("dattri", "DataInf").fit(model, *sets[:2], DAMPING)
    assert_equal(DataInf(model, DAMPING).fit(*sets[:2]), theirs, sets)


@pytest.mark.parametrize("name", MODELS)
def test_grad_dot_equals_captums_tracin_at_one_checkpoint(name):
    pytest.importorskip("captum")
    model, sets = problem(name)
    theirs = peer("captum", "TracInCP").fit(model, *sets[:2], DAMPING)
    assert_equal(GradDot(model).fit(*sets[:2]), theirs, sets)
