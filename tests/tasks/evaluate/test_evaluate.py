"""Evaluation of vectors and of masked language models, against other ways to get the numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.conftest import MODELS, TEXT
from uertool import Model, Whitening, load_model
from uertool.errors import ConfigError, InputError, UsageError
from uertool.tasks.cloze.masking import Masker
from uertool.tasks.cloze.settings import ClozeSettings
from uertool.tasks.evaluate.cloze import evaluate_cloze
from uertool.tasks.evaluate.pairs import best_threshold, cosines, interval, read_pairs, roc_auc
from uertool.tasks.evaluate.settings import PairSettings
from uertool.tasks.evaluate.sts import evaluate_sts
from uertool.tasks.features.settings import FittedSettings
from uertool.text.readers import Line

MEAN = PairSettings(pooling="mean")


@pytest.fixture(scope="module")
def small() -> Model:
    return load_model(MODELS / "zh-mlm-small", device="cpu")


HEADER = "text_a\ttext_b\tscore"


def table(path: Path, rows: list[tuple[object, ...]], header: str = HEADER) -> Path:
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Texts and the same with their end replaced; the score is what both share."""
    random = np.random.default_rng(3)
    texts = (TEXT / "reviews_test.tsv").read_text("utf-8").split("\n")[1:60]
    texts = [text.partition("\t")[2][:40].strip() for text in texts]
    rows = []
    for place, text in enumerate(texts[:-1]):
        share = random.random()
        rows.append((text, text[: int(len(text) * share)] + texts[place + 1], round(5 * share, 2)))
    return table(tmp_path / "pairs.tsv", rows)


def test_correlations_are_those_of_scipy_on_cosines(small: Model, pairs: Path) -> None:
    found = read_pairs(pairs, MEAN)
    (result,) = evaluate_sts(small, found, MEAN, name="small", resamples=200)
    rows = [line.split("\t") for line in pairs.read_text("utf-8").split("\n")[1:-1]]
    one, other = (small.encode([row[n] for row in rows], pooling="mean") for n in (0, 1))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (one * other).sum(axis=1) / lengths
    scores = [float(row[2]) for row in rows]
    assert result.spearman == pytest.approx(stats.spearmanr(cosines, scores).statistic, abs=1e-3)
    assert result.pearson == pytest.approx(stats.pearsonr(cosines, scores).statistic, abs=1e-4)
    assert result.low is not None and result.high is not None
    assert result.low < result.spearman < result.high
    assert (result.pairs, result.size, result.whitening, result.auc) == (58, 192, None, None)
    (again,) = evaluate_sts(small, found, MEAN, name="small", resamples=200)
    assert again == result


def test_pairs_of_equal_texts_share_a_rank(small: Model, tmp_path: Path) -> None:
    """Rounding errors of their cosines, which are all 1, would order them by chance."""
    texts = [line[:15] for line in (TEXT / "corpus_zh.txt").read_text("utf-8").split("\n")[:20]]
    rows = [(text, text, score) for score, text in enumerate(texts)]
    found = read_pairs(table(tmp_path / "equal.tsv", rows), MEAN)
    fitted = FittedSettings(whiten=True)
    for result in evaluate_sts(small, found, MEAN, fitted, resamples=5):
        assert math.isnan(result.spearman) and math.isnan(result.pearson)
        assert result.low is None


def test_samples_without_a_correlation_do_not_count() -> None:
    """Those that hold one pair only; of two pairs these are half."""
    cosines, scores = np.array([0.1, 0.5, 0.9]), np.array([1.0, 2.0, 3.0])
    assert interval(cosines, scores, 100, 7) == pytest.approx((1, 1))
    assert interval(np.ones(3), scores, 100, 7) is None
    cosines, scores = np.random.default_rng(1).random((2, 50))
    drawn = stats.bootstrap(
        (cosines, scores),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=99,
        method="percentile",
        rng=np.random.default_rng(7),
    )
    assert interval(cosines, scores, 99, 7) == pytest.approx(drawn.confidence_interval)


def test_a_whitening_is_fitted_on_the_texts_or_loaded(
    small: Model, pairs: Path, tmp_path: Path
) -> None:
    found = read_pairs(pairs, MEAN)
    fitted = list(evaluate_sts(small, found, MEAN, FittedSettings(whitening_size=16), resamples=0))
    occurring = [text for a, b in zip(found.first, found.second, strict=True) for text in (a, b)]
    rows = small.encode([found.texts[place] for place in occurring], pooling="mean")
    saved = tmp_path / "w.safetensors"
    Whitening.fit(rows, 16, about={"pooling": "mean"}).save(saved)
    both = PairSettings(pooling="mean,first")
    load = FittedSettings(load_whitening=saved)
    loaded = list(evaluate_sts(small, found, both, load, resamples=0))
    assert [result.whitening for result in fitted] == [None, "fitted"]
    assert [result.whitening for result in loaded] == [None, str(saved), None]
    assert loaded[1].spearman == pytest.approx(fitted[1].spearman, abs=1e-4)
    assert fitted[1].size == 16 and fitted[1].low is None


def test_further_pairs_and_tables_without_a_header(small: Model, tmp_path: Path) -> None:
    rows = [("好", "很好", 3), ("天气", "天气好", 2), ("书", "酒店", 0.5), ("他", "下雨", 1)]
    lines = ["\t".join(["genre", str(score), one, other]) for one, other, score in rows]
    files = [tmp_path / name for name in ("test.tsv", "train.tsv")]
    for path, part in zip(files, (lines[:3], lines), strict=True):
        path.write_text("\n".join(part) + "\n", "utf-8")
    settings = PairSettings(pooling="mean", text_columns="2,3", score_column="1")
    test, train = (read_pairs(path, settings) for path in files)
    assert test.scores.tolist() == [3, 2, 0.5] and test.texts[:3] == ["好", "很好", "天气"]
    whiten = FittedSettings(whitening_size=3)
    *_, found = evaluate_sts(small, test, settings, whiten, more=[train], resamples=0)
    texts = [text for pairs in (test, train) for text in pairs.texts]
    fitted = Whitening.fit(small.encode(texts, pooling="mean"), 3)
    values = cosines(fitted.transform(small.encode(test.texts, pooling="mean")), test)
    assert found.pearson == pytest.approx(stats.pearsonr(values, test.scores).statistic, abs=1e-4)
    with pytest.raises(UsageError, match="`fit_path` was given"):
        list(evaluate_sts(small, test, settings, more=[train]))


def test_labels_have_an_area_and_a_threshold(small: Model, tmp_path: Path) -> None:
    rows = [("好", "很好", 1), ("天气", "天气好", 1), ("书", "酒店", 0), ("他", "下雨", 0)]
    header = HEADER.replace("score", "label")
    found = read_pairs(table(tmp_path / "l.tsv", rows, header), MEAN)
    (result,) = evaluate_sts(small, found, MEAN, resamples=0)
    assert result.auc is not None and 0 <= result.auc <= 1
    values = np.array([0.9, 0.6, 0.7, 0.1])
    matches = np.array([True, True, False, False])
    assert roc_auc(values, matches) == 0.75
    assert ((values >= best_threshold(values, matches)) == matches).sum() == 3


def test_json_lines_and_other_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    records = [{"s1": "好", "s2": "坏", "sim": 1.5}, {"s1": "人", "s2": "好", "sim": "2"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n", "utf-8")
    found = read_pairs(path, PairSettings(text_columns="s1,s2", score_column="sim"))
    assert found.texts == ["好", "坏", "人"]
    assert found.scores.tolist() == [1.5, 2]
    assert (found.first.tolist(), found.second.tolist()) == ([0, 2], [1, 0])


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("好", "坏", "x"), ("好", "人", 1)], "line 2: the score 'x' is not a finite number"),
        ([("好", "坏", 1), ("好", "人", "nan")], "line 3: the score 'nan' is not a finite"),
        ([("好", " ", 1)], "line 2: 'text_b' is blank"),
        ([("好", "坏", 1), ("好",)], "line 3: there is no 'text_b'"),
        ([("好", "坏", 1), ("好", "人", 1)], "the same score for all pairs"),
        ([("好", "坏", 1)], "no two pairs"),
        ([], "no two pairs"),
    ],
)
def test_what_is_wrong_with_pairs_is_said(
    tmp_path: Path, rows: list[tuple[object, ...]], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        read_pairs(table(tmp_path / "p.tsv", rows), MEAN)


def test_missing_columns_are_named_as_the_settings_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'text_a'.*`text_columns`"):
        read_pairs(table(tmp_path / "p.tsv", [("a", "b", 1)], "one\ttwo\tscore"), MEAN)
    with pytest.raises(UsageError, match="two names"):
        PairSettings(text_columns="a")
    with pytest.raises(UsageError, match="no pooling 'median'"):
        PairSettings(pooling="median")


# -- cloze ----------------------------------------------------------------------------------------

LINES = [Line(n, text) for n, text in enumerate(["今天天气很好。", "", "我们去公园吧 ok playing"])]


def masked_one_by_one(model: Model, words: bool = False) -> list[tuple[float, bool]]:
    """Log-probability and rank of every token, by cloze tests of the whole line with one mask."""
    found = []
    for line in LINES:
        tokens = model.tokenize([line.text])[0]
        groups = [range(n, n + 1) for n in range(len(tokens))]
        if words:
            masker = Masker(model.tokenizer, ClozeSettings(whole_word=True), 128)
            groups = masker.words(model.tokenizer.encode(line.text), range(len(tokens)))
        for group in groups:
            ids = model.tokenizer.encode(line.text)
            right = [ids[place] for place in group]
            for place in group:
                ids[place] = model.tokenizer.mask_id or 0
            if model.tokenizer.unk_id in right:
                continue
            import torch

            row = torch.tensor([[*model.tokenizer.prefix_ids, *ids, *model.tokenizer.suffix_ids]])
            with torch.inference_mode():
                assert model.model.mlm is not None
                scores = model.model.mlm(model.model.encode(row, torch.ones_like(row)))[0]
            scores = scores.log_softmax(-1)[len(model.tokenizer.prefix_ids) :]
            for place, label in zip(group, right, strict=True):
                found.append((float(scores[place, label]), int(scores[place].argmax()) == label))
    return found


@pytest.mark.parametrize("whole_word", [False, True])
def test_figures_are_those_of_masking_one_by_one(small: Model, whole_word: bool) -> None:
    expected = masked_one_by_one(small, whole_word)
    settings = ClozeSettings(whole_word=whole_word, batch_size=3)
    found = evaluate_cloze(small, LINES, settings, name="small")
    assert found.tokens == len(expected)
    assert found.token_accuracy == pytest.approx(np.mean([right for _, right in expected]))
    loss = -np.mean([value for value, _ in expected])
    assert math.log(found.perplexity) == pytest.approx(loss, abs=1e-4)
    assert (found.lines, found.empty, found.cut) == (3, 1, 0)
    assert (found.words < found.tokens) == whole_word


def test_words_of_a_list_are_masked_together(small: Model) -> None:
    words = frozenset(["公园吧"])
    found = evaluate_cloze(small, LINES, ClozeSettings(whole_word=True, words=words))
    plain = evaluate_cloze(small, LINES, ClozeSettings(whole_word=True))
    assert found.tokens == plain.tokens
    assert found.words == plain.words - 1


def test_what_cannot_be_evaluated_is_said(small: Model) -> None:
    with pytest.raises(InputError, match="no token"):
        evaluate_cloze(small, [Line(0, "")], ClozeSettings())
    other = load_model(MODELS / "zh-lm-small", device="cpu")
    with pytest.raises(ConfigError, match="no MLM head"):
        evaluate_cloze(other, LINES, ClozeSettings())
    cut = evaluate_cloze(small, [Line(0, "长" * 50)], ClozeSettings(seq_length=20))
    assert (cut.cut, cut.tokens) == (1, 19)
