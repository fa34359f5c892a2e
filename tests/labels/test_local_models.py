"""Scores by models on this machine: tiny ones of random weights, and what is said without them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from cuvee.errors import DataError, MissingDependencyError
from cuvee.labels.local_models import (
    AskLlm,
    FastTextModel,
    HfClassifier,
    LocalKind,
    check_local_model,
)

_WORDS = ["[PAD]", "[UNK]", "[EOS]", "yes", "no", "is", "good", "a", "b", "c", "d", "e"]
_TEXTS = ["a b c", "d", "e e e e a b", "unheard words", "b " * 50]
_PROMPT = "is good a {text} b"


def _transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra cuvee[hf] is not installed")


def _save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({word: code for code, word in enumerate(_WORDS)}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    _transformers().PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        model_max_length=24,
    ).save_pretrained(folder)


def _save_classifier(folder: Path, n_labels: int, **settings: object) -> None:
    transformers = _transformers()
    torch.random.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(_WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.5,
        num_labels=n_labels,
        **settings,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    _save_tokenizer(folder)


def _save_causal(folder: Path) -> None:
    transformers = _transformers()
    torch.random.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(_WORDS), n_positions=24, n_embd=16, n_layer=1, n_head=2
    )
    config.initializer_range = 0.5
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    _save_tokenizer(folder)


def _ids(text: str, most: int) -> torch.Tensor:
    return torch.tensor([[_WORDS.index(w) if w in _WORDS else 1 for w in text.split()][:most]])


def test_a_label_of_a_classifier_is_scored(tmp_path: Path) -> None:
    """Its softmax share on each text alone, cut at the model's limit; a batch changes nothing."""
    names = {0: "poor", 1: "fine", 2: "best"}
    _save_classifier(tmp_path, 3, id2label=names, label2id={v: k for k, v in names.items()})
    found = HfClassifier.load(tmp_path, label="best", max_tokens=None)
    scores = found.score(_TEXTS)
    for text, score in zip(_TEXTS, scores, strict=True):
        with torch.inference_mode():
            logits = found.model(_ids(text, 24)).logits[0]
        assert score == pytest.approx(float(torch.softmax(logits, 0)[2]), abs=1e-5)
    assert scores.std() > 1e-3
    others = sum(
        HfClassifier.load(tmp_path, label=name, max_tokens=None).score(_TEXTS)
        for name in ("poor", "fine")
    )
    np.testing.assert_allclose(scores + others, 1.0, atol=1e-6)
    short = HfClassifier.load(tmp_path, label="best", max_tokens=1)
    np.testing.assert_allclose(short.score(["a b c"]), short.score(["a"]), atol=1e-6)
    with pytest.raises(DataError, match="has no label 'bad'; its labels are poor, fine, best"):
        HfClassifier.load(tmp_path, label="bad", max_tokens=None)
    with pytest.raises(DataError, match="has no label None"):
        HfClassifier.load(tmp_path, label=None, max_tokens=None)


def test_the_output_of_a_regression_is_scored(tmp_path: Path) -> None:
    """One output, no label."""
    _save_classifier(tmp_path, 1)
    found = HfClassifier.load(tmp_path, label=None, max_tokens=None)
    with torch.inference_mode():
        expected = [float(found.model(_ids(text, 24)).logits[0, 0]) for text in _TEXTS]
    np.testing.assert_allclose(found.score(_TEXTS), expected, atol=1e-5)
    with pytest.raises(DataError, match="is a regression of 1 outputs"):
        HfClassifier.load(tmp_path, label="LABEL_0", max_tokens=None)


def test_a_causal_model_is_asked(tmp_path: Path) -> None:
    """Yes against no after the prompt's last token, whatever the padding; long texts are cut."""
    _save_causal(tmp_path)
    found = AskLlm.load(tmp_path, prompt=_PROMPT, max_tokens=None)
    assert (found.yes, found.no) == ((3,), (4,))
    scores = found.score(_TEXTS)
    for text, score in zip(_TEXTS[:4], scores, strict=False):
        with torch.inference_mode():
            logits = found.model(_ids(_PROMPT.replace("{text}", text), 24)).logits[0, -1]
        yes, no = torch.softmax(logits[[3, 4]], 0).tolist()
        assert score == pytest.approx(yes, abs=1e-5)
        assert score == pytest.approx(1.0 - no, abs=1e-5)
    cut = " ".join(["b"] * found.max_tokens)
    np.testing.assert_allclose(scores[4], found.score([cut])[0], atol=1e-6)
    with pytest.raises(DataError, match=r"leaves model .* no room"):
        AskLlm.load(tmp_path, prompt="a " * 20 + "{text}", max_tokens=None)


def test_braces_of_a_document_are_left_alone(tmp_path: Path) -> None:
    """A text that looks like a format or a place is text."""
    _save_causal(tmp_path)
    found = AskLlm.load(tmp_path, prompt="{other} {text}", max_tokens=None)
    scores = found.score(["{0} {x.__class__}", "{text}"])
    assert np.all((scores > 0.0) & (scores < 1.0))


def test_what_needs_its_own_code_or_pickles_is_not_loaded(tmp_path: Path) -> None:
    """Weights that are not safetensors, and a config that points to code."""
    _save_classifier(tmp_path, 1)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be loaded"):
        HfClassifier.load(tmp_path, label=None, max_tokens=None)
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own", '
        '"AutoModelForSequenceClassification": "own.Model"}}',
        encoding="utf-8",
    )
    (tmp_path / "own.py").write_text("raise SystemExit", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded"):
        HfClassifier.load(tmp_path, label=None, max_tokens=None)


class _Letters:
    """Stands for a fastText model: the share of words that are the letter a, and the rest."""

    def get_labels(self) -> list[str]:
        """Return the labels."""
        return ["__label__hq", "__label__cc"]

    def predict(self, lines: Sequence[str], k: int) -> tuple[list[Any], list[Any]]:
        """Return all labels, the likeliest first, as fastText does."""
        assert k == -1
        assert all("\n" not in line for line in lines)
        shares = [line.split().count("a") / len(line.split()) for line in lines]
        order = [(s >= 0.5, s) for s in shares]
        labels = [self.get_labels() if first else self.get_labels()[::-1] for first, _ in order]
        return labels, [np.array([max(s, 1 - s), min(s, 1 - s)]) for s in shares]


def test_a_label_of_fasttext_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name with or without the prefix, on one line a text."""
    fake = SimpleNamespace(load_model=lambda path: _Letters())
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    path = tmp_path / "model.bin"
    path.write_bytes(b"")
    texts = ["a\nb", "b b b a", "a"]
    for label in ("hq", "__label__hq"):
        scores = FastTextModel.load(path, label=label).score(texts)
        np.testing.assert_allclose(scores, [0.5, 0.25, 1.0])
    assert len(FastTextModel.load(path, label="cc").score([])) == 0
    with pytest.raises(DataError, match="has no label 'x'; its labels are hq, cc"):
        FastTextModel.load(path, label="x")
    with pytest.raises(DataError, match="is not a file"):
        check_local_model("fasttext", tmp_path)


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("hf-classifier", "transformers", "hf"),
        ("ask-llm", "transformers", "hf"),
        ("fasttext", "fasttext", "fasttext"),
    ],
)
def test_missing_packages_and_folders_are_named(
    kind: LocalKind, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that installs them."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'cuvee\[{extra}\]'"):
        check_local_model(kind, tmp_path)
    monkeypatch.setitem(sys.modules, package, SimpleNamespace())
    with pytest.raises(DataError, match="is not a f"):
        check_local_model(kind, tmp_path / "nowhere")
