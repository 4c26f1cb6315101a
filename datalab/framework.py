"""DATA-LAB, the paper's framework (section 3.3): a learned projection, adaptive weights, a regularised objective.

    z_i = W h_i + b                                                    component 1, on a frozen encoder's h_i
    w   = softmax(s(.) / tau)                                          component 2
    L   = sum_i w_i l_i + lambda1 ||theta||^2 + lambda2 KL(w || u)     component 3

The paper lost these formulas; they are read from the text around them. Over a batch of m examples w sums to 1 and u
is 1/m. In the variant ``paper`` the scorer s sees z_i alone, and the softmax is over the batch. In ``label-aware`` it
sees z_i, the observed label and the (detached) loss, and the softmax is within each observed class, which keeps its
share of the batch. Any component can be left out.

For fixed losses the best weights have a closed form (Donsker & Varadhan's variational formula):

    min_w sum_i w_i l_i + lambda2 KL(w || u) = -lambda2 log mean_i exp(-l_i / lambda2),  at  w_i ~ exp(-l_i / lambda2)

so that DATA-LAB is, at its best, empirical risk minimisation tilted towards small losses (Li et al. 2021). It is the
one formal guarantee there is.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datalab import models
from datalab.errors import UserError, did_you_mean
from datalab.mapped import MappedStack
from datalab.training import Recipe, fit_many

VARIANTS = ("paper", "label-aware")
_NEVER = -1e30  # a score no softmax sees: a finite one, whose gradient is 0 and not NaN


class DataLab(nn.Module):
    """One DATA-LAB model: features (n, d) to logits (n, C), and the objective it is trained on.

    Parameters
    ----------
    grid, n_classes, architecture, hidden
        Of the classifier, see :func:`datalab.models.build`; behind a projection it sees a line of ``width`` features.
    width, scorer_hidden
        k, the dimensions of z, and the hidden units of the scorer.
    variant
        ``"paper"`` or ``"label-aware"``.
    projection, weighting
        False leaves the component out: z = h; w = u. Component 3 is left out by lambda1 = lambda2 = 0.

    Raises UserError for an unknown variant or architecture.
    """

    def __init__(
        self,
        grid: models.Grid,
        n_classes: int,
        architecture: str = "mlp",
        hidden: int = 64,
        *,
        width: int = 32,
        scorer_hidden: int = 16,
        variant: str = "paper",
        projection: bool = True,
        weighting: bool = True,
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"unknown variant '{variant}'{did_you_mean(str(variant), VARIANTS)}")
        self.n_classes, self.variant, self.weighting = n_classes, variant, weighting
        features = math.prod(grid)
        self.project = nn.Linear(features, width) if projection else nn.Identity()
        self.classifier = models.build(architecture, (1, 1, width) if projection else grid, n_classes, hidden)
        if weighting:
            seen = (width if projection else features) + (n_classes + 1) * (variant == "label-aware")
            self.scorer = nn.Sequential(nn.Linear(seen, scorer_hidden), nn.ReLU(), nn.Linear(scorer_hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, C) of x (n, d)."""
        return self.classifier(self.project(x))

    def objective(self, x: Tensor, labels: Tensor, lambda1: Tensor, lambda2: Tensor, tau: Tensor) -> Tensor:
        """The objective of one batch x (m, d), labels (m,); theta is all parameters but the scorer's."""
        z = self.project(x)
        losses = cross_entropy(self.classifier(z), labels, reduction="none")
        theta = [*self.project.parameters(), *self.classifier.parameters()]
        penalty = lambda1 * sum(p.square().sum() for p in theta)
        if not self.weighting:
            return losses.mean() + penalty
        log_w = self._log_weights(z, labels, losses.detach(), tau)
        return (log_w.exp() * losses).sum() + penalty + lambda2 * kl_to_uniform(log_w)

    def log_weights(self, x: Tensor, labels: Tensor, tau: Tensor) -> Tensor:
        """log w (n,) of the examples x (n, d), labels (n,), taken as one batch."""
        z = self.project(x)
        return self._log_weights(z, labels, cross_entropy(self.classifier(z), labels, reduction="none"), tau)

    def _log_weights(self, z: Tensor, labels: Tensor, losses: Tensor, tau: Tensor) -> Tensor:
        if self.variant == "paper":
            return torch.log_softmax(self.scorer(z)[:, 0] / tau, 0)
        of_class = labels[:, None] == torch.arange(self.n_classes, device=labels.device)
        scores = self.scorer(torch.cat([z, of_class.to(z), losses[:, None]], 1)) / tau
        # A class whose examples number m_c shares m_c / m of the weight among them.
        total = torch.where(of_class, scores, _NEVER).logsumexp(0) - of_class.sum(0).clamp(min=1).to(scores).log()
        return scores[:, 0] - total[labels] - math.log(len(labels))


def fit_datalab(
    module: DataLab,
    x: Tensor,
    labels: np.ndarray,
    seeds: Sequence[int],
    recipe: Recipe,
    *,
    lambda1: Sequence[float] | float,
    lambda2: Sequence[float] | float,
    tau: Sequence[float] | float = 1.0,
    kept: np.ndarray | None = None,
) -> MappedStack:
    """Train S models by :func:`datalab.training.fit_many`; lambda1, lambda2 and tau are one number, or one a model.

    ``recipe.l2`` does not enter: lambda1 takes its place (l2/2 = lambda1). Raises UserError for a negative lambda, or
    a tau that is not above 0.
    """
    given = {"lambda1": lambda1, "lambda2": lambda2, "tau": tau}
    settings = {}
    for name, values in given.items():
        numbers = torch.as_tensor(values, dtype=torch.float64).expand(len(seeds))
        low = "above 0" if name == "tau" else "at least 0"
        if not bool((numbers > 0).all() if name == "tau" else (numbers >= 0).all()):
            raise UserError(f"{name}: must be {low}, got {float(numbers.min()):g}")
        settings[name] = numbers.to(x.device, x.dtype)
    return fit_many(module, x, labels, kept, seeds, recipe._replace(l2=0.0), settings=settings)


def weights(stack: MappedStack, x: Tensor, labels: np.ndarray) -> Tensor:
    """The weights (S, n), each row of sum 1, that S trained models give x (n, d) with labels (n,) or (S, n)."""
    labels = torch.as_tensor(np.broadcast_to(labels, (len(stack), len(x))).copy(), device=x.device)
    return stack.map(DataLab.log_weights, x, labels, stack.settings["tau"]).exp()


def kl_to_uniform(log_w: Tensor) -> Tensor:
    """KL(w || u) in nats of weights given by their logarithms (..., m), over the last dimension: 0 to log m."""
    return (log_w.exp() * log_w).sum(-1) + math.log(log_w.shape[-1])


def optimal_log_weights(losses: Tensor, lambda2: float) -> Tensor:
    """The logarithms (..., m) of the weights that minimise sum w l + lambda2 KL(w || u): w_i ~ exp(-l_i / lambda2).

    At lambda2 = 0 all weight lies on the smallest loss, in equal parts where there are several.
    """
    if lambda2 > 0:
        return torch.log_softmax(-losses / lambda2, -1)
    smallest = losses == losses.min(-1, keepdim=True).values
    return torch.where(smallest, -smallest.sum(-1, keepdim=True).to(losses).log(), -torch.inf)


def tilted_loss(losses: Tensor, lambda2: float) -> Tensor:
    """-lambda2 log mean exp(-l / lambda2) over the last dimension: the minimum that the optimal weights reach."""
    if lambda2 == 0:
        return losses.min(-1).values
    return -lambda2 * (torch.logsumexp(-losses / lambda2, -1) - math.log(losses.shape[-1]))


def effective_sample_size(w: Tensor) -> Tensor:
    """1 / sum w^2 of weights (..., m) of sum 1: from 1, all on one example, to m, all equal (Kish 1965)."""
    return 1 / w.square().sum(-1)
