"""Checkpoints of one training for TracIn: of a stack by ``fit_many``, or of a model in a loop of one's own."""

import pytest
import torch
from influence_oracle import refusal
from torch import nn

from datalab.influence import Checkpoints, GradDot, TracIn
from datalab.training import Recipe, cosine, fit_many


def data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3


def test_checkpoints_share_out_the_whole_schedule_and_end_with_the_training():
    (x, y), recipe = data(), Recipe(20)
    by_step = [cosine(recipe.learning_rate, step, recipe.steps) for step in range(recipe.steps)]
    path = Checkpoints(by_step, count=4)
    stack = fit_many(nn.Sequential(nn.Linear(6, 3)), x, y.numpy(), None, [1], recipe, on_step=path)
    assert sum(path.rates) == pytest.approx(sum(by_step))
    assert len(path.models) == len(path.rates) == 4
    torch.testing.assert_close(path.models[-1].flat, stack.flat)


def test_a_model_in_train_mode_is_kept_as_it_was_in_eval_mode():
    torch.manual_seed(0)
    (x, y), model = data(), nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    sgd, path, weights = torch.optim.SGD(model.parameters(), 0.1), Checkpoints([0.1] * 5, count=2), []
    for step in range(1, 6):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()
        path(step, model)
        weights.append(model[0].weight.detach().clone())
    assert model.training
    assert path.rates == pytest.approx([0.2, 0.3])
    for kept, wanted in zip(path.models, (weights[1], weights[4]), strict=True):
        assert torch.equal(kept[0].weight, wanted)
    scores = TracIn(path.models, path.rates).fit(x, y).self_influence(x, y)
    parts = [r * GradDot(m).fit(x, y).self_influence(x, y) for m, r in zip(path.models, path.rates, strict=True)]
    torch.testing.assert_close(scores, sum(parts))


def test_more_checkpoints_than_steps_are_refused():
    assert "count: must lie in 1..3" in refusal(lambda: Checkpoints([0.1] * 3, count=4))


@pytest.mark.parametrize("rates", [[0.1, -0.05, 0.1], [0.1, float("nan"), 0.1], ["a", "b", "c"]])
def test_rates_that_no_training_has_are_refused_before_it(rates):
    assert "learning_rates" in refusal(lambda: Checkpoints(rates, 1))


class Keeps(nn.Module):
    """A model that keeps what its forward gave, which cannot be copied."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.layer(x)
        return self.last


def test_a_model_that_cannot_be_copied_is_refused_in_a_line():
    model = Keeps()
    model(data()[0])
    assert "cannot be copied" in refusal(lambda: Checkpoints([0.1], 1)(1, model))
