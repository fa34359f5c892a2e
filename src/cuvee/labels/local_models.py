"""Quality scores by models whose weights lie on this machine; nothing is fetched, no code is run.

Sources: FineWeb-Edu's classifier (arXiv:2406.17557, section 4) is a sequence classifier, DCLM's
(arXiv:2406.11794, section 4.4) a fastText model; Ask-LLM (arXiv:2402.09668, section 3.1) takes the
probability of "yes" after a prompt. Deviation: "yes" against "no" only, so that the rest of the
vocabulary does not matter.
"""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch

from cuvee.arrays import FloatArray
from cuvee.errors import DataError, MissingDependencyError

LocalKind: TypeAlias = Literal["hf-classifier", "fasttext", "ask-llm"]
PLACE = "{text}"
"""Where a prompt takes the document."""
_PACKAGES = {"hf-classifier": "transformers", "fasttext": "fasttext", "ask-llm": "transformers"}
_EXTRAS = {"transformers": "hf", "fasttext": "fasttext"}
_BATCH = 16
_BATCH_LOGITS = 2**28
"""Numbers a batch's output may hold: 1 GiB of float32."""
_SPARE = 8
"""Tokens left free for what a cut text's end may add."""
_NO_LIMIT = 10**9
_LABEL = "__label__"
_YES, _NO = ("yes", " yes", "Yes", " Yes"), ("no", " no", "No", " No")


def check_local_model(kind: LocalKind, path: Path) -> None:
    """See that a model's package and files are there.

    Args:
        kind: Which sort of model.
        path: Folder of a Hugging Face model, or a fastText file.

    Raises:
        MissingDependencyError: The package is not installed.
        DataError: There is no such folder or file.
    """
    _package(kind)
    if kind == "fasttext":
        if not path.is_file():
            raise DataError(f"model {path} is not a file; give the path of a fastText .bin file.")
    elif not (path / "config.json").is_file():
        raise DataError(
            f"model {path} is not a folder with a config.json; give the folder of a model saved "
            "by transformers. Nothing is fetched."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HfClassifier:
    """A sequence classifier: its regression output, or the probability of one of its labels."""

    model: Any
    tokenizer: Any
    label: int | None
    """Position of the label; None for a regression."""
    max_tokens: int

    @classmethod
    def load(cls, path: Path, *, label: str | None, max_tokens: int | None) -> Self:
        """Load a model from a folder.

        Args:
            path: With config.json, tokenizer and weights in safetensors.
            label: Name of the label; None for a model of one output.
            max_tokens: Tokens read of a document at most; None: the model's own limit.

        Raises:
            MissingDependencyError: transformers is not installed.
            DataError: The folder cannot be loaded, or has no such label.
        """
        check_local_model("hf-classifier", path)
        tokenizer, model = _load(path, "AutoModelForSequenceClassification")
        names = {str(name): int(code) for code, name in model.config.id2label.items()}
        is_regression = len(names) == 1 or model.config.problem_type == "regression"
        if is_regression and (label is not None or len(names) > 1):
            raise DataError(
                f"model {path} is a regression of {len(names)} outputs; a score needs one output "
                "and no label."
            )
        if not is_regression and label not in names:
            raise DataError(
                f"model {path} has no label {label!r}; its labels are {', '.join(names)}. Set "
                "label to one of them."
            )
        return cls(
            model=model,
            tokenizer=tokenizer,
            label=None if label is None else names[label],
            max_tokens=_limit(tokenizer, model, max_tokens),
        )

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return (n_documents,) outputs, or probabilities of the label."""
        scores = np.empty(len(texts))
        for places in _batches([len(text) for text in texts], _BATCH):
            inputs = self.tokenizer(
                [texts[place] for place in places],
                truncation=True,
                max_length=self.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = self.model(**inputs.to(self.model.device)).logits.double()
            scores[places] = self._values(logits).cpu().numpy()
        return scores

    def _values(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the scores of (n_documents, n_labels) logits."""
        if self.label is None:
            return logits[:, 0]
        if self.model.config.problem_type == "multi_label_classification":
            return torch.sigmoid(logits[:, self.label])
        return torch.softmax(logits, dim=1)[:, self.label]


@dataclass(frozen=True, kw_only=True, slots=True)
class FastTextModel:
    """A fastText classifier: the probability of one of its labels."""

    model: Any
    label: str

    @classmethod
    def load(cls, path: Path, *, label: str) -> Self:
        """Load a .bin file.

        Args:
            path: The file.
            label: Name of the label, with or without ``__label__``.

        Raises:
            MissingDependencyError: fasttext is not installed.
            DataError: The file cannot be loaded, or has no such label.
        """
        check_local_model("fasttext", path)
        try:
            model = _package("fasttext").load_model(str(path))
        except ValueError as error:
            raise DataError(f"model {path} is not a fastText model ({error}).") from error
        known = list(model.get_labels())
        wanted = label if label.startswith(_LABEL) else f"{_LABEL}{label}"
        if wanted not in known:
            raise DataError(
                f"model {path} has no label {label!r}; its labels are "
                f"{', '.join(one.removeprefix(_LABEL) for one in known)}. Set label to one of them."
            )
        return cls(model=model, label=wanted)

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return (n_documents,) probabilities of the label; a text is read as one line."""
        lines = [" ".join(text.splitlines()) for text in texts]
        found = self.model.predict(lines, k=-1) if lines else ((), ())
        scores = np.zeros(len(texts))
        for place, (labels, shares) in enumerate(zip(*found, strict=True)):
            scores[place] = dict(zip(labels, shares, strict=True)).get(self.label, 0.0)
        return np.clip(scores, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class AskLlm:
    """A causal model that is asked about each text: the probability of "yes" against "no"."""

    model: Any
    tokenizer: Any
    prompt: str
    yes: tuple[int, ...]
    no: tuple[int, ...]
    max_tokens: int
    """Tokens of the document that are read."""

    @classmethod
    def load(cls, path: Path, *, prompt: str, max_tokens: int | None) -> Self:
        """Load a model from a folder.

        Args:
            path: With config.json, tokenizer and weights in safetensors.
            prompt: With ``{text}`` where the document is to stand.
            max_tokens: Tokens read of a document at most; None: as many as the model takes.

        Raises:
            MissingDependencyError: transformers is not installed.
            DataError: The folder cannot be loaded, its tokenizer parts "yes" or "no", or the
                prompt leaves no room for a document.
        """
        check_local_model("ask-llm", path)
        tokenizer, model = _load(path, "AutoModelForCausalLM")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        yes, no = (_single_tokens(tokenizer, words) for words in (_YES, _NO))
        if not yes or not no:
            raise DataError(
                f"the tokenizer of model {path} has no single token for yes and for no; choose "
                "another model."
            )
        n_prompt = len(tokenizer(prompt.replace(PLACE, ""))["input_ids"])
        room = _limit(tokenizer, model, None) - n_prompt - _SPARE
        if room < 1:
            raise DataError(
                f"the prompt takes {n_prompt} tokens, which leaves model {path} no room for a "
                "document. Shorten it."
            )
        return cls(
            model=model,
            tokenizer=tokenizer,
            prompt=prompt,
            yes=yes,
            no=no,
            max_tokens=room if max_tokens is None else min(room, max_tokens),
        )

    def score(self, texts: Sequence[str]) -> FloatArray:
        """Return (n_documents,) probabilities of yes."""
        asked = [self.prompt.replace(PLACE, self._cut(text)) for text in texts]
        scores = np.empty(len(texts))
        lengths = [len(self.tokenizer(one)["input_ids"]) for one in asked]
        size = _BATCH_LOGITS // (max(lengths, default=1) * int(self.model.config.vocab_size))
        for places in _batches(lengths, max(1, min(_BATCH, size))):
            inputs = self.tokenizer(
                [asked[place] for place in places], padding=True, return_tensors="pt"
            ).to(self.model.device)
            last = inputs["attention_mask"].sum(dim=1) - 1  # padding stands behind, unseen
            with torch.inference_mode():
                logits = self.model(**inputs).logits
            final = logits[torch.arange(len(places), device=logits.device), last].double()
            yes, no = (torch.logsumexp(final[:, list(ids)], dim=1) for ids in (self.yes, self.no))
            scores[places] = torch.sigmoid(yes - no).cpu().numpy()
        return scores

    def _cut(self, text: str) -> str:
        """Return the part of a text that is read."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= self.max_tokens:
            return text
        return str(self.tokenizer.decode(ids[: self.max_tokens], skip_special_tokens=True))


def _package(kind: LocalKind) -> ModuleType:
    name = _PACKAGES[kind]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"a criterion of kind {kind!r} needs the package {name}, which is not installed; run "
            f"`pip install 'cuvee[{_EXTRAS[name]}]'`, or leave the criterion out."
        ) from error


def _load(path: Path, kind: str) -> tuple[Any, Any]:
    """Load a tokenizer and a model from a folder: no network, no code of the model's own."""
    transformers = _package("hf-classifier")
    settings = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **settings)
        model = getattr(transformers, kind).from_pretrained(
            str(path), use_safetensors=True, **settings
        )
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"model {path} cannot be loaded: {reason:.300} It must be whole, with its tokenizer "
            "and weights in safetensors, and need no code of its own."
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return tokenizer, model.to(device).eval()


def _limit(tokenizer: Any, model: Any, max_tokens: int | None) -> int:
    """Return the tokens a model takes: the least of its own, its tokenizer's and the config's."""
    own = getattr(model.config, "max_position_embeddings", None)
    limits = [one for one in (own, tokenizer.model_max_length, max_tokens) if one is not None]
    return int(min([*limits, _NO_LIMIT]))


def _single_tokens(tokenizer: Any, words: Sequence[str]) -> tuple[int, ...]:
    parted = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in words)
    unknown = tokenizer.unk_token_id
    return tuple(sorted({ids[0] for ids in parted if len(ids) == 1 and ids[0] != unknown}))


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Gather texts of like length, so that little is padded."""
    order = np.argsort(lengths, kind="stable").tolist()
    for first in range(0, len(order), size):
        yield order[first : first + size]
