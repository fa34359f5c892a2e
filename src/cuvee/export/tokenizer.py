"""The tokenizer of an export: the run's own, or that of the model the selection is for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from cuvee import artifacts
from cuvee.artifacts import Json
from cuvee.corpus.encoder import adapt_tokenizer, find_end_of_text, measure_vocabulary
from cuvee.errors import ConfigError
from cuvee.export.selection import TOKENIZER, SelectionFiles

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportTokenizer:
    """What counts the tokens of an export, and whose ids its files hold."""

    content: str
    """Of its tokenizer.json, with an end-of-text that no text contains."""
    digest: str
    """Differs between tokenizers, wherever their files stand."""
    is_own: bool
    """Whether the selection was counted with it, so that its token store can be read."""
    vocabulary_size: int
    """One more than the highest id."""
    end_of_text: int
    """Id that ends every document and stands nowhere else."""
    added: str | None
    """The end-of-text that the file lacked and that was added; None: it has its own."""

    @classmethod
    def open(cls, selection: SelectionFiles, given: str | None) -> Self:
        """Read the tokenizer of an export.

        Args:
            selection: What is exported.
            given: Path of a tokenizer.json; None is the run's own.

        Raises:
            ConfigError: The file is missing, is not a tokenizer, or has no end-of-text that is safe
                and none can be added.
        """
        own = selection.tokenizer.read_text(encoding="utf-8")
        content = own if given is None else adapt_tokenizer(Path(given))
        tokenizer = Tokenizer.from_str(content)
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        end = find_end_of_text(tokenizer)
        if end is None:
            raise ConfigError(
                f"tokenizer {given or selection.tokenizer} has no special token that ends a text "
                "and cannot be given one. Mark its end-of-text as special."
            )
        is_own = content == own
        is_adapted = given is not None and content != Path(given).read_text(encoding="utf-8")
        return cls(
            content=content,
            digest=artifacts.digest_of(selection.run / "tokenizer")
            if is_own
            else artifacts.digest_json(content),
            is_own=is_own,
            vocabulary_size=measure_vocabulary(tokenizer)[0],
            end_of_text=end,
            added=str(tokenizer.id_to_token(end)) if is_adapted else None,
        )

    def write(self, folder: Path) -> Path:
        """Write tokenizer.json for tasks to read, unless it is written.

        Args:
            folder: Its artefact folder.

        Returns:
            The file.
        """
        if not artifacts.is_done(folder):
            with artifacts.writing(folder, stage="export", settings={}, seed=0, inputs={}) as aside:
                artifacts.write_text(aside / TOKENIZER, self.content)
        return folder / TOKENIZER

    def write_for_trainers(self, folder: Path) -> None:
        """Write a tokenizer's folder as trainers open it that tokenise text themselves.

        Without ``tokenizer_config.json`` they would not know which token ends a text.

        Args:
            folder: Is made.

        Source: transformers, `PreTrainedTokenizerFast`; torchtitan, components/tokenizer.py.
        """
        folder.mkdir()
        artifacts.write_text(folder / TOKENIZER, self.content)
        about: dict[str, Json] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": Tokenizer.from_str(self.content).id_to_token(self.end_of_text),
            "clean_up_tokenization_spaces": False,
        }
        artifacts.write_json(folder / TOKENIZER_CONFIG, about)
