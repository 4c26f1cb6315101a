"""A network trained end to end: arms that are paired, blind to the test labels, and limits over seeds."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from torch import nn

from datalab import data
from datalab.data import pretrained
from datalab.errors import UserError
from datalab.record.parameters import resolve
from datalab.sections import s0_title_noise_threshold as s0
from datalab.sections.compare import STOPPED
from datalab.sections.trials import fine_tuned
from datalab.sections.trials.trial import Trial
from datalab.training import cosine

NOISE = (0.0, 0.02, -0.05)  # what a seed adds to every arm's score
TASK = {
    "dataset": "digits",
    "seed": 0,
    "root_seed": 7,
    "rate": 0.4,
    "steps": 60,
    "caps": {"train": 120, "validation": 60, "test": 150},
    "encoder": "fast",
    "device": "cpu",
}


def tiny(name, ids):
    """A stand-in for the pretrained network, whose weights are trained as its are."""
    weights = {"w": torch.randn(64, 24, generator=torch.Generator().manual_seed(0)) / 2}
    weights["bn.running_mean"] = torch.ones(24)
    pixels = data.load(name).features.iloc[ids].to_numpy(np.float32)
    inputs = torch.as_tensor(4 * pixels / pixels.max())
    return fine_tuned.Network(lambda w, x: torch.relu(x @ w["w"]) - w["bn.running_mean"], weights), inputs


def run(**changed):
    given = TASK | changed
    return pd.DataFrame(fine_tuned.run_task(given.pop("rate"), given.pop("steps"), given.pop("load", tiny), **given))


@pytest.fixture(scope="module", autouse=True)
def quickly():
    """A learning rate at which the stand-in learns within these few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuned, "RULE", dict(fine_tuned.RULE) | {"learning_rate": {"image": 0.03}})
        yield


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return run()


def test_every_arm_is_trained_twice_over_and_a_task_repeats_itself(rows):
    assert list(rows.arm) == [arm for arm in ("full", "random", "influence", "oracle") for _ in range(2)]
    assert list(rows.trained) == [STOPPED, "60 steps"] * 4
    assert rows.macro_f1.gt(0.2).all(), "above chance"
    pd.testing.assert_frame_equal(rows, run())
    assert "oracle" not in set(run(rate=0.0).arm), "with clean labels it is the arm that keeps everything"


def test_the_oracle_drops_exactly_the_flipped_and_the_pruned_keep_equally_many(rows):
    arms = rows.drop_duplicates("arm").set_index("arm")
    assert arms.flipped_kept["oracle"] == 0
    assert arms.flipped_kept["full"] == pytest.approx(rows.realised_rate[0])
    assert arms.n_kept["oracle"] == round(arms.n_kept["full"] * (1 - rows.realised_rate[0]))
    assert arms.n_kept["influence"] == arms.n_kept["random"] == 84
    assert arms.flipped_kept["influence"] < arms.flipped_kept["random"], "the ranking finds flipped labels"


def test_arms_start_alike_and_see_their_common_examples_in_one_order(monkeypatch):
    """Every arm's first weights, and the labels and the order of the batches it is given."""
    starts, seen, start = [], [], fine_tuned._Tuner._start
    order = fine_tuned.batch_order

    def watched_start(self):
        model = start(self)
        starts.append(torch.cat([values.detach().flatten() for values in model.parameters()]).clone())
        return model

    def watched_order(kept, seeds, length):
        found = order(kept, seeds, length)
        seen.append((kept[0], found[0]))
        return found

    monkeypatch.setattr(fine_tuned._Tuner, "_start", watched_start)
    monkeypatch.setattr(fine_tuned, "batch_order", watched_order)
    run(steps=2)
    assert len(starts) == 4
    assert all(torch.equal(starts[0], other) for other in starts)
    everything = seen[0][1]
    for mask, rows in seen[1:]:
        common = everything[mask[everything]]
        np.testing.assert_array_equal(rows[: len(common)], common[: len(rows)])


def test_stopped_early_is_the_first_look_of_the_best_noisy_validation(monkeypatch):
    made = iter([0.1, 0.5, 0.5, 0.3] * 4)

    class Metrics:
        accuracy = staticmethod(fine_tuned.metrics.accuracy)

        @staticmethod
        def macro_f1(y, guesses, n_classes):
            return next(made) if len(y) == 60 else 0.0

    monkeypatch.setattr(fine_tuned, "metrics", Metrics)
    looks = fine_tuned.RULE["look_every"]
    rows = run(steps=4 * looks)
    assert (rows[rows.trained == STOPPED].steps == 2 * looks).all()
    assert (rows[rows.trained == STOPPED].validation_f1 == 0.5).all()
    assert (rows[rows.trained != STOPPED].validation_f1 == 0.3).all()


def test_no_test_label_decides_anything(rows, monkeypatch):
    """With other test labels every choice, what is kept and what validation says, is the same; the scores are not."""
    prepared = Trial.prepared.func

    def shuffled(self):
        p = prepared(self)
        return dataclasses.replace(p, y_test=np.random.default_rng(0).permutation(p.y_test))

    monkeypatch.setattr(Trial, "prepared", property(shuffled))
    other = run()
    choices = ["arm", "trained", "steps", "n_kept", "flipped_kept", "validation_f1"]
    pd.testing.assert_frame_equal(rows[choices], other[choices])
    assert (rows.macro_f1 > other.macro_f1).all()


def test_all_is_trained_but_the_statistics_of_a_batch_norm(monkeypatch):
    networks = []

    def kept(name, ids):
        network, inputs = tiny(name, ids)
        networks.append(network)
        return network, inputs

    copies, copy = [], fine_tuned._Tuner._start
    monkeypatch.setattr(fine_tuned._Tuner, "_start", lambda self: copies.append(copy(self)) or copies[-1])
    run(steps=2, load=kept)
    shipped = networks[0]
    assert torch.equal(shipped.values[0], tiny("digits", [0])[0].values[0]), "an arm must not train another's start"
    for model in copies:
        assert not torch.equal(model[0].values[0], shipped.values[0])
        assert torch.equal(model[0].fixed["bn.running_mean"], torch.ones(24))


def test_the_table_has_the_mean_over_seeds_of_what_is_paired_by_seed(rows):
    """By hand, of one arm: three seeds whose scores differ, and scipy's interval."""
    made = pd.concat([rows.assign(seed=seed, macro_f1=rows.macro_f1 + noise) for seed, noise in enumerate(NOISE)])
    made.loc[(made.arm == "influence") & (made.seed == 2), "macro_f1"] += 0.03
    shown = fine_tuned.table(made)
    line = shown[(shown.arm == "influence") & (shown.trained == STOPPED)].iloc[0]
    of = made[made.trained == STOPPED].pivot(index="seed", columns="arm", values="macro_f1")
    for arm in ("random", "full"):
        d = of.influence - of[arm]
        interval = scipy.stats.ttest_1samp(d, 0).confidence_interval(0.95)
        ours = line[[f"less {arm}", f"less {arm} low", f"less {arm} high"]]
        assert list(ours) == pytest.approx([d.mean(), *interval])
    assert line["F1"] == pytest.approx(of.influence.mean())
    assert line.trainings == 3
    assert shown[shown.arm == "full"]["less full"].isna().all(), "nothing is held against itself"


def test_the_words_follow_the_table(rows):
    other = rows.assign(seed=1, macro_f1=rows.macro_f1 + 0.02 * (rows.arm == "influence"))
    shown = fine_tuned.table(pd.concat([rows, other]))
    own = shown[(shown.arm == "influence") & (shown.trained == STOPPED)].iloc[0]
    said = fine_tuned.reading(shown)
    assert f"digits at 40 % ({own['less random']:+.3f} [{own['less random low']:.3f}" in said
    assert "Student's, over 2 trainings" in said
    assert "keeping everything: **failed**" in fine_tuned.reading(shown.assign(**{"less full low": 0.01}))
    assert "keeping everything: **open**" in fine_tuned.reading(shown.assign(**{"less full low": -0.01}))
    assert fine_tuned.table(pd.DataFrame()).empty
    assert "No encoder was fine-tuned" in fine_tuned.reading(pd.DataFrame())


def test_the_plan_has_a_task_a_set_rate_and_seed_and_fetches_the_encoders():
    p = resolve(s0.Parameters, {"profile": "study"}, "test")
    made = fine_tuned.tasks(p)
    assert {(t.parameters["dataset"], t.parameters["rate"], t.parameters["seed"]) for t in made} == {
        (name, rate, seed) for name in p.fine_tuned_datasets for rate in fine_tuned.RULE["rates"] for seed in range(3)
    }
    assert sum(task.models for task in made) == 66
    assert {"minilm", "efficientnet-lite0"} <= set(p.needs)
    assert not fine_tuned.tasks(resolve(s0.Parameters, {"profile": "quick"}, "test"))
    with pytest.raises(UserError, match="fine_tuned_seeds"):
        resolve(s0.Parameters, {"fine_tuned_seeds": 1}, "test")
    with pytest.raises(UserError, match="'wine' holds neither texts nor grey images"):
        resolve(s0.Parameters, {"fine_tuned_datasets": ["wine"]}, "test")


@pytest.mark.parametrize("name", ["mnist5k", "vader-amazon"])
def test_the_shipped_encoders_learn_by_their_own_weights(name):
    encoder = pretrained.encoder_of(data.REGISTRY[name])
    if data.missing([name, encoder]):
        pytest.skip(f"{name} and {encoder} are not on this disk")
    network, inputs = fine_tuned.shipped(name, np.arange(8))
    before = [values.clone() for values in network.values]
    torch.manual_seed(0)
    head = nn.Linear(network(inputs[:1]).shape[1], 2)
    optimiser = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-4)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(head(network(inputs)), torch.arange(8) % 2)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert not any(name.endswith(fine_tuned.FIXED) for name in network.names)
    assert all(not torch.equal(old, new) for old, new in zip(before, network.values, strict=True))


def test_the_learning_rate_rises_over_half_of_the_steps_and_then_follows_its_cosine_to_0():
    rates = [fine_tuned.rate_at(step, 60, 1.0) for step in range(1, 61)]
    assert rates[0] == pytest.approx(1 / 30)
    assert 18 <= int(np.argmax(rates)) < 30
    assert rates[29:] == [cosine(1.0, step, 60) for step in range(29, 60)]
    assert rates[-1] < 0.001
