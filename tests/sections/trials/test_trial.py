"""A trial: whose flips are whose, what a model may have seen, and that stacking changes nothing."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import f1_score

from datalab import noise, seeds
from datalab.sections.trials import trial as shared
from datalab.sections.trials.trial import Trial
from datalab.training import protocol_recipe

CAPS = {"train": 90, "validation": 30, "test": 40}


def made(architecture: str = "mlp", rates=(0.0, 0.2), **more) -> Trial:
    return Trial("wine", architecture, 0, 7, tuple(rates), CAPS, "fast", "cpu", **more)


def test_the_frameworks_sections_see_the_same_flips_whatever_the_architecture():
    mlp, cnn = made("mlp"), made("cnn")
    np.testing.assert_array_equal(mlp.observed, cnn.observed)
    np.testing.assert_array_equal(mlp.observed_validation, cnn.observed_validation)
    assert mlp.model_seed("model") != cnn.model_seed("model")


@pytest.mark.parametrize("kind", noise.KINDS)
def test_the_titles_flips_are_of_its_kind_from_the_stream_named_by_it(kind):
    trial = made(noise_kind=kind)
    p = trial.prepared
    rng = seeds.generator(7, "wine", "mlp", kind, 0, "noise", "train", 0.2)
    np.testing.assert_array_equal(trial.observed[0], p.y_train)
    np.testing.assert_array_equal(trial.observed[1], noise.corrupt(p.y_train, kind, 0.2, p.n_classes, rng, p.x_train))


def test_models_of_all_noise_kinds_start_alike():
    kinds = {made(noise_kind=kind).model_seed("model") for kind in noise.KINDS}
    assert len(kinds) == 1
    assert kinds != {made().model_seed("model")}


def test_a_wrong_label_does_not_reach_its_own_out_of_sample_probabilities():
    trial = made(rates=(0.0,))
    labels = trial.observed.copy()
    labels[0, 5] = (labels[0, 5] + 1) % trial.prepared.n_classes
    before, after = shared.out_of_sample(trial), shared.out_of_sample(trial, labels)
    np.testing.assert_array_equal(before[0, 5], after[0, 5])
    assert (before != after).any()


def test_a_rates_scores_do_not_depend_on_the_rates_stacked_with_it():
    both, alone = made(), made(rates=(0.2,))
    stacked = shared.self_influence(both, *shared.references(both))
    np.testing.assert_allclose(stacked[1], shared.self_influence(alone, *shared.references(alone))[0], rtol=1e-4)
    assert (stacked >= 0).all()


def test_scores_on_the_test_set_are_those_of_each_model():
    trial = made()
    stack = shared.fit(trial, trial.observed)
    predicted = stack.predict(trial.x_test).numpy()
    scores = shared.scores_on_test_set(trial, stack)
    assert [row["accuracy"] for row in scores] == list((predicted == trial.prepared.y_test).mean(1))
    f1 = [f1_score(trial.prepared.y_test, guesses, average="macro") for guesses in predicted]
    assert [row["macro_f1"] for row in scores] == pytest.approx(f1)


def test_labels_that_people_gave_are_taken_as_they_are():
    trial = made(rates=(None,), noise_kind=shared.HUMAN)
    words = np.zeros_like(trial.prepared.y_train)
    p = dataclasses.replace(trial.prepared, human_labels_train=words, human_labels_val=words[:3])
    trial.__dict__["prepared"] = p
    assert trial.observed.tolist() == [words.tolist()]
    assert trial.observed_validation.tolist() == [[0, 0, 0]]


def test_each_model_is_read_at_the_length_its_own_noisy_validation_likes_best_the_shortest_of_equals():
    trial = made()
    n_classes, seen = trial.prepared.n_classes, {}

    def train(recipe):
        return shared.fit(trial, trial.observed, recipe=recipe)

    def f1(steps: int) -> list[float]:
        guesses = train(protocol_recipe(steps)).predict(trial.x_val).numpy()
        of_model = zip(trial.observed_validation, guesses, strict=True)
        return [f1_score(y, p, average="macro", labels=range(n_classes), zero_division=0) for y, p in of_model]

    lengths = (1, 3, 10, 40, 41)
    for steps in lengths:
        seen[steps] = f1(steps)
    chosen = [max(lengths, key=lambda steps, i=i: (round(seen[steps][i], 12), -steps)) for i in range(2)]
    assert chosen[0] != 1  # else the test shows nothing
    read = shared.read_off(trial, train, lengths, trial.observed_validation)
    for i, steps in enumerate(chosen):
        expected = train(protocol_recipe(steps)).predict(trial.x_test).numpy()[i]
        np.testing.assert_array_equal(read[i], expected)
    fixed = train(protocol_recipe()).predict(trial.x_test).numpy()
    np.testing.assert_array_equal(shared.read_off(trial, train), fixed)
    probabilities = partial(shared.probabilities, x=trial.x_test)
    logits = shared.read_off(trial, train, lengths, trial.observed_validation, probabilities)
    np.testing.assert_array_equal(logits.argmax(-1), read)
