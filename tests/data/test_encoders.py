"""Encoders: everything fitted comes from the train rows; what a row becomes depends on that row alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fetched import fetched

from datalab import data
from datalab.data import encoders, pretrained, tables
from datalab.data.loaders import RawTable
from datalab.errors import UserError


def _dataset(features: pd.DataFrame) -> tables.Dataset:
    n = len(features)
    labels = np.asarray([str(i % 2) for i in range(n)], dtype=object)
    raw = tables.build("tiny", RawTable(features.assign(_row=np.arange(n)), labels))
    order = np.argsort(raw.features["_row"].to_numpy())  # the tests speak of rows in the order written
    return replace(raw, features=raw.features.iloc[order][list(features)].reset_index(drop=True))


def _images(n: int = 30, side: int = 4) -> tables.Dataset:
    pixels = np.random.default_rng(0).integers(0, 255, (n, side * side))
    pixels[:, 0] = 7  # a flat pixel
    return _dataset(pd.DataFrame(pixels, columns=[f"x{i}" for i in range(side * side)]))


TEXTS = [f"the {animal} {verb} number {i % 5}" for i, (animal, verb) in enumerate(
    (a, v) for a in ("cat", "dog", "owl", "fox") for v in ("runs", "sleeps", "eats", "sings", "hides"))]  # fmt: skip


def test_pooling_takes_the_mean_of_two_by_two_pixels():
    dataset = _images()
    ids = np.arange(30)
    pooled = encoders.Pixels(dataset, (1, 4, 4), pool=2)
    image = dataset.features.iloc[5].to_numpy(float).reshape(4, 4)
    expected = [image[:2, :2].mean(), image[:2, 2:].mean(), image[2:, :2].mean(), image[2:, 2:].mean()]
    np.testing.assert_allclose(pooled._pooled(ids)[5], expected)
    assert pooled.grid == (1, 2, 2)


def test_a_pixel_flat_in_train_stays_zero_there_and_small_elsewhere():
    dataset = _images()
    dataset.features.loc[29, "x0"] = 255
    x = encoders.Pixels(dataset, (1, 4, 4)).fit(np.arange(20)).transform(np.arange(30))
    assert (x[:20, 0] == 0).all()
    assert 0 < x[29, 0] < 15


@pytest.mark.parametrize("kind", ["pixels", "table", "wide", "text"])
def test_rows_outside_train_change_nothing_fitted_and_order_changes_nothing(kind):
    if kind == "pixels":
        dataset, make = _images(), lambda d: encoders.Pixels(d, (1, 4, 4), pool=2)
    elif kind == "table":
        dataset, make = _images(), encoders.DummyTable
    elif kind == "wide":
        dataset, make = _images(), lambda d: encoders.WideTable(d, components=4)
    else:
        dataset, make = _dataset(pd.DataFrame({"text": TEXTS})), lambda d: encoders.TfidfSvd(d, components=4)
    train, rest = np.arange(15), np.arange(15, 20)
    before = make(dataset).fit(train)
    x, shuffled = before.transform(train), train[::-1]
    np.testing.assert_allclose(before.transform(shuffled), x[::-1], atol=1e-6)
    dataset.features.iloc[rest] = dataset.features.iloc[rest[::-1]].to_numpy()
    np.testing.assert_array_equal(make(dataset).fit(train).transform(train), x)
    assert int(np.prod(before.grid)) == x.shape[1]
    assert x.dtype == np.float32


def test_numbers_become_z_scores_cut_at_ten_and_missing_ones_the_median_with_a_flag():
    values = np.r_[np.nan, np.arange(1.0, 100.0), 1e6]
    table = encoders.DummyTable(_dataset(pd.DataFrame({"a": values, "flat": 3.0})))
    x = table.fit(np.arange(100)).transform(np.arange(101))
    filled = np.r_[50.0, np.arange(1.0, 100.0)]
    np.testing.assert_allclose(x[:100, 0], (filled - filled.mean()) / filled.std(), rtol=1e-5)
    assert x[100, 0] == 10
    assert (x[:, 1] == 0).all()
    assert x[:, 2].tolist() == [1.0] + [0.0] * 100


def test_rare_levels_share_a_column_and_an_unseen_level_joins_them():
    levels = ["common"] * 150 + ["other"] * 48 + ["rare1", "rare2"] + ["never"]
    dataset = _dataset(pd.DataFrame({"kind": pd.Categorical(levels)}))
    x = encoders.DummyTable(dataset).fit(np.arange(200)).transform(np.arange(201))
    assert x.shape == (201, 2)
    assert x[:150].sum() == 0, "the most frequent level is the reference"
    assert x[:, 0].tolist() == [0] * 150 + [1] * 48 + [0] * 3
    assert x[[198, 199, 200], 1].tolist() == [1, 1, 1]


def test_text_vectors_are_sklearns_tfidf_and_svd_up_to_one_factor_and_shift():
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    ids = np.arange(len(TEXTS))
    ours = encoders.TfidfSvd(_dataset(pd.DataFrame({"text": TEXTS})), components=4).fit(ids)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=r"(?u)\b\w+\b").fit_transform(TEXTS)
    peer = TruncatedSVD(4, random_state=0).fit_transform(words)
    np.testing.assert_allclose(ours.transform(ids) * ours.scale_ + ours.mean_, peer, atol=1e-5)
    np.testing.assert_allclose(ours.transform(ids).var(axis=0).mean(), 1, rtol=1e-5)


def test_chinese_is_cut_into_characters_and_pairs_of_them():
    texts = pd.DataFrame({"text": ["书很好", "书不好", "酒店很差", "酒店不错"] * 3})
    ours = encoders.TfidfSvd(_dataset(texts), components=4, characters=True).fit(np.arange(12))
    assert {"书", "好", "很好", "酒店"} <= set(ours.words_.get_feature_names_out())
    assert not {"书很好", "酒店很"} & set(ours.words_.get_feature_names_out())
    words = encoders.TfidfSvd(_dataset(texts), components=4)
    assert words.cache_key != ours.cache_key
    assert isinstance(encoders.fast(_dataset(texts), data.REGISTRY["zh-reviews"]), encoders.TfidfSvd)
    assert encoders.fast(_dataset(texts), data.REGISTRY["zh-reviews"]).cut["analyzer"] == "char"


def test_a_wide_table_is_projected_on_its_principal_directions_with_one_factor():
    from sklearn.decomposition import PCA

    table = _dataset(pd.DataFrame(np.random.default_rng(0).normal(size=(50, 20)), columns=list("abcdefghijklmnopqrst")))
    ids, rest = np.arange(40), np.arange(40, 50)
    ours = encoders.WideTable(table, components=5).fit(ids)
    scores = encoders.DummyTable(table).fit(ids)
    peer = PCA(5, svd_solver="full").fit(scores.transform(ids))
    own, theirs = ours.transform(rest), peer.transform(scores.transform(rest))
    factor = np.linalg.norm(own) / np.linalg.norm(theirs)
    np.testing.assert_allclose(own, factor * theirs, atol=1e-4 * np.abs(own).max())
    np.testing.assert_allclose(ours.transform(ids).var(axis=0, ddof=1).mean(), 1, rtol=1e-4)
    assert ours.grid == (1, 1, 5)
    assert isinstance(encoders.fast(table, data.REGISTRY["hiva"]), encoders.WideTable)
    assert isinstance(encoders.pretrained(table, data.REGISTRY["hiva"]), encoders.WideTable)


@pytest.fixture
def embedding(tmp_path, monkeypatch):
    """An Embedding whose network is a stand-in that counts the rows it was given."""
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained.download, "on_disk", lambda name: True)
    monkeypatch.setattr(pretrained, "EMBED_AT_ONCE", 8)
    dataset, given = _images(), []

    def embed(rows):
        given.extend(rows)
        return np.stack([np.asarray([row, row**2, 1.0]) for row in rows])

    return lambda: pretrained.Embedding(dataset, "minilm", embed, np.arange(30.0)), given


def test_each_row_is_embedded_once_whatever_is_asked(embedding):
    make, given = embedding
    make().fit(np.arange(20))
    x = make().fit(np.arange(20)).transform(np.asarray([25, 3, 25]))
    assert sorted(given) == [*range(20), 25]
    np.testing.assert_array_equal(x[0], x[2])
    assert x.shape == (3, 3)


def test_embeddings_are_standardised_by_train_rows_and_rounded_to_half_precision(embedding):
    make, _ = embedding
    found = make().fit(np.arange(20))
    x = found.transform(np.arange(20))
    np.testing.assert_allclose(x[:, :2].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x[:, :2].std(axis=0), 1, rtol=1e-4)
    assert (found.vectors(np.asarray([19])) == np.float16([19, 361, 1])).all()


def test_a_damaged_piece_of_the_embedding_cache_is_computed_again(embedding, tmp_path):
    make, given = embedding
    make().fit(np.arange(20))
    pieces = sorted(tmp_path.rglob("*.npz"))
    assert len(pieces) == 3
    pieces[0].write_bytes(b"PK nothing")
    make().fit(np.arange(20))
    assert 20 < len(given) <= 28


def test_the_pretrained_encoder_is_chosen_by_what_a_set_holds(monkeypatch):
    monkeypatch.setattr(pretrained.download, "on_disk", lambda name: True)
    digits = data.load("digits")
    assert encoders.pretrained(digits, data.REGISTRY["digits"]).name == "efficientnet-lite0"
    assert isinstance(encoders.pretrained(digits, data.REGISTRY["satimage"]), encoders.Pixels)
    assert isinstance(encoders.pretrained(digits, data.REGISTRY["wine"]), encoders.DummyTable)


def test_an_encoder_that_is_not_on_disk_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DATALAB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="datalab datasets --fetch efficientnet-lite0"):
        data.prepare("digits", 0, 2024, {}, encoder="pretrained")


@pytest.mark.network
def test_efficientnet_lite0_gives_the_published_codes_features():
    """The figures are those of efficientnet-lite-pytorch 0.1.0 on the same picture; ours differed by exactly 0."""
    import torch

    fetched("efficientnet-lite0")
    weights, device = pretrained._efficientnet_lite0()
    side = torch.linspace(-1, 1, 96, device=device)
    picture = torch.stack([side[:, None] * side, (3 * side[:, None]).sin() + side, side[:, None] - side.square()])[None]
    with torch.inference_mode():
        found = pretrained.efficientnet_lite0(weights, picture)[0]
    assert found.shape == (1280,)
    published = [0.1932, 0.6301, 5.2812]
    np.testing.assert_allclose([found.mean().item(), found.std().item(), found.max().item()], published, atol=2e-4)


@pytest.mark.network
def test_digits_are_told_apart_by_their_embeddings_and_company_does_not_show():
    fetched("efficientnet-lite0")
    images = data.load("digits").features.to_numpy(np.float32).reshape(-1, 8, 8)[:40] * 16
    together = pretrained.embed_images(images)
    alone = np.concatenate([pretrained.embed_images(images[i : i + 1]) for i in (0, 39)])
    np.testing.assert_allclose(alone, together[[0, 39]], atol=1e-4)


@pytest.mark.network
def test_sentences_that_mean_the_same_lie_closer_and_company_does_not_show():
    fetched("minilm")
    texts = ["the film was wonderful", "a truly great movie", "the invoice is due on Monday", "word " * 400]
    vectors = pretrained.embed_texts(texts)
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_allclose(pretrained.embed_texts(texts[:1])[0], vectors[0], atol=1e-5)


def test_words_are_cut_as_berts_uncased_vocabulary_cuts_them():
    """The pieces are those of the tokenizers library on the same texts; ours agreed on 16,000 of the registry's."""
    known = ["[UNK]", "[CLS]", "[SEP]", "cafe", "un", "##want", "##ed", "wanted", "!", "$", "好", "the"]
    vocabulary = {word: i for i, word in enumerate(known)}

    def words(text):
        return [known[i] for i in pretrained.word_pieces(text, vocabulary)[1:-1]]

    assert words("The Café\u0000!") == ["the", "cafe", "!"]
    assert words("UNwanted unx") == ["un", "##want", "##ed", "[UNK]"]
    assert words("the$好the\u00a0the") == ["the", "$", "好", "the", "the"]
    assert words("un" * 51) == ["[UNK]"]
    assert pretrained.word_pieces("the " * 400, vocabulary)[-1] == vocabulary["[SEP]"]
    assert len(pretrained.word_pieces("the " * 400, vocabulary)) == pretrained.LENGTHS[-1]
