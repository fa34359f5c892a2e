"""Say which files are the pool, and list them as shards."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import ClassVar, Literal, TypeAlias

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cuvee.errors import ConfigError, DataError

Format: TypeAlias = Literal["parquet", "jsonl", "text", "megatron", "npy", "task"]
DomainFrom: TypeAlias = Literal["column", "folder", "file", "pattern"]

DEFAULT_ID = "id"
TOKEN_FORMATS: tuple[Format, ...] = ("megatron", "npy")
"""Formats of documents that are token ids already."""

_SUFFIXES: Mapping[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".jsonl.zst": "jsonl",
    ".json.gz": "jsonl",
    ".json.zst": "jsonl",
    ".bin": "megatron",
    ".npy": "npy",
}
_TEXT_SHARD_BYTES = 64 * 2**20
_TEXT_SHARD_FILES = 1000
_NAME_LENGTH = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """Where a pool's documents stand and what their columns are called."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shards: tuple[str, ...]
    """Files, folders (read to any depth), globs; local or any fsspec URL."""
    format: Literal["auto", "parquet", "jsonl", "text", "megatron", "npy", "task"] = "auto"
    """auto: by suffix (.parquet, .jsonl, .json.gz and the like; .bin and .npy of a folder that has
    others too only where there is a tokenizer). text: a file is a document. megatron: token ids in
    .bin, their documents in the .idx beside it. npy: raw token ids as OLMo reads them, documents by
    end-of-text or a .csv.gz beside. task: what `targets.tasks` sets, not meant to be given."""
    tokenizer: str | None = None
    """Path of the tokenizer.json that made the ids of token files; the run then reads all text with
    it. Null where there are none."""
    id: str | None = DEFAULT_ID
    """Column of the document ids, strings or numbers; null makes ids from domain and text, and so
    does "id" where there is no such column. Ids of text and token files are always made."""
    text: str = "text"
    """Column of the text."""
    domain: str | None = "domain"
    """Column of the domain names, used when domain_from is column."""
    domain_from: DomainFrom = "column"
    """column; folder: name of the folder a file stands in; file: name of the file without suffixes;
    pattern: what domain_pattern finds in the file's path."""
    domain_missing: str | None = None
    """Domain of the documents whose domain column is missing, null or blank; null rejects them."""
    domain_pattern: str | None = None
    """Regular expression with one group, searched in the path of each file."""
    group: str | None = None
    """Column whose equal values stay on one side of every split; null or empty values: the id."""
    group_strip: str | None = r"#part\d+$"
    """Regular expression removed from the group's value: parts of one book are one group."""
    max_document_bytes: int = 64 * 2**20
    """Longest text, and longest line of a JSONL file, in bytes; longer ones are rejected."""
    max_reject_share: float = 0.01
    """Share of rows that may be rejected before the pool is refused, in [0, 1]."""
    validation_share: float = 0.02
    """Share of groups whose documents are held out for validation, in [0, 1); at least one group of
    every domain that has two, unless the share is 0."""
    available_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of the real pool by domain, where this pool is only a sample of it."""
    exclude: tuple[str, ...] = ()
    """Files of ids of documents to be left out: Parquet with a column id, such as `cuvee overlap`
    writes, or text with one id a line."""

    def __post_init__(self) -> None:
        if not self.shards or not all(self.shards):
            raise ConfigError("shards is empty; name at least one file, folder, glob or URL.")
        _check_share("max_reject_share", self.max_reject_share, below_one=False)
        _check_share("validation_share", self.validation_share, below_one=True)
        if self.max_document_bytes < 1:
            raise ConfigError(
                f"max_document_bytes is {self.max_document_bytes}; it must be at least 1."
            )
        for name, count in self.available_tokens.items():
            if count < 1:
                raise ConfigError(
                    f"available_tokens of domain {name!r} is {count}; it must be at least 1. "
                    "Leave the domain out where the pool given is the real one."
                )
        if self.group_strip is not None:
            _compile("group_strip", self.group_strip)
        self._check_domain()

    def _check_domain(self) -> None:
        if self.domain_from == "column" and self.domain is None:
            raise ConfigError(
                "domain is null but domain_from is 'column'; name the column, or take the domain "
                "from 'folder', 'file' or 'pattern'."
            )
        if self.domain_missing is not None and not self.domain_missing.strip().isprintable():
            raise ConfigError(f"domain_missing is {self.domain_missing!r}; it must be printable.")
        if self.domain_missing is not None and not self.domain_missing.strip():
            raise ConfigError("domain_missing is blank; give a name, or null to reject documents.")
        if (self.domain_from == "pattern") != (self.domain_pattern is not None):
            raise ConfigError(
                f"domain_from is {self.domain_from!r} and domain_pattern is "
                f"{self.domain_pattern!r}; give domain_pattern exactly when domain_from is "
                "'pattern'."
            )
        if self.domain_pattern is not None:
            groups = _compile("domain_pattern", self.domain_pattern).groups
            if groups != 1:
                raise ConfigError(
                    f"domain_pattern {self.domain_pattern!r} has {groups} groups; it must have "
                    "exactly one: the domain's name in parentheses."
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One unit of reading: a file, or some text files of one folder."""

    index: int
    """Position in the pool's list, from 0."""
    url: str
    """Path or URL of the file; of the folder where the format is text."""
    name: str
    """Unique and safe as a file name."""
    format: Format
    """How it is read."""
    n_bytes: int
    """Size on disk."""
    domain: str | None = None
    """The domain of all its documents; None: a column tells."""
    files: tuple[str, ...] = ()
    """Format text only: the files, one document each, in order of their rows."""
    first_row: int = 0
    """Number of the first row; not 0 where the text files of one folder make several shards."""


@dataclass(frozen=True, slots=True)
class _File:
    url: str
    n_bytes: int
    asked_for: bool


def list_shards(config: PoolConfig, *, domain: str | None = None) -> tuple[Shard, ...]:
    """List the shards of a pool in order of their URLs.

    Hidden files (below a name that begins with a dot) are passed over, and so are files of other
    kinds unless they are named one by one.

    Args:
        config: The pool.
        domain: The domain of every document, whatever the config says; for target sets.

    Returns:
        The shards; at least one.

    Raises:
        DataError: A pattern matches no file, a file's format cannot be told, a place cannot be
            read, or no domain can be made from a path.
        ConfigError: Text or token files are to have a domain column, or there is no tokenizer for
            token files.
    """
    found: dict[str, tuple[_File, Format]] = {}
    for pattern in config.shards:
        found.update(_typed_files(pattern, config))
    files = [found[url] for url in sorted(found)]
    for file, kind in files:
        if kind == "text" or kind in TOKEN_FORMATS:
            _check_columnless(file, kind, config, domain)
    texts = [file for file, kind in files if kind == "text"]
    tables = [_table_shard(file, kind, config, domain) for file, kind in files if kind != "text"]
    return numbered([*tables, *_text_shards(texts, config, domain)])


def _check_columnless(file: _File, kind: Format, config: PoolConfig, domain: str | None) -> None:
    """Refuse files without columns of which the config says too little."""
    if domain is None and config.domain_from == "column":
        raise ConfigError(
            f"format is {kind!r} and domain_from is 'column', but "
            f"{'text' if kind == 'text' else 'token'} files have no columns; take the domain from "
            "'folder', 'file' or 'pattern'."
        )
    if kind in TOKEN_FORMATS and config.tokenizer is None:
        raise ConfigError(
            f"shard {file.url} holds token ids (format {kind!r}), but tokenizer is null; ids are "
            "used as they are, so the tokenizer.json that made them is needed. Give its path as "
            "tokenizer, beside shards, or leave the file out of shards."
        )


def numbered(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """Number shards in their order by URL and give each its name.

    Args:
        shards: Shards with any index and name.

    Returns:
        The same shards, numbered from 0.
    """
    ordered = sorted(shards, key=lambda shard: (shard.url, shard.first_row, shard.domain or ""))
    return tuple(
        replace(shard, index=index, name=f"{index:05d}-{_safe(_stem(shard.url))}")
        for index, shard in enumerate(ordered)
    )


def _typed_files(pattern: str, config: PoolConfig) -> dict[str, tuple[_File, Format]]:
    files = list(_matches(pattern))
    typed: dict[str, tuple[_File, Format]] = {}
    for file in files:
        kind = _format_of(file, config)
        if kind is not None:
            typed[file.url] = (file, kind)
        elif file.asked_for:
            raise DataError(
                f"shard {file.url}: its format cannot be told by its name; known are "
                f"{', '.join(_SUFFIXES)}. Rename it or set format."
            )
    if config.format == "auto" and config.tokenizer is None:
        # Weights and arrays bear such names too: they are passed over beside a pool's own files.
        tables = {
            url: one
            for url, one in typed.items()
            if one[1] not in TOKEN_FORMATS or one[0].asked_for
        }
        typed = tables or typed
    if not typed:
        wanted = "" if config.format == "text" else f" ending in {', '.join(_SUFFIXES)}"
        others = f" (other files there: {len(files)})" if files else ""
        raise DataError(
            f"shards: {pattern!r} matches no file{wanted}{others}. Correct the path, or set format."
        )
    return typed


def _matches(pattern: str) -> Iterator[_File]:
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        if filesystem.isfile(path):
            yield _File(_url(filesystem, path), int(filesystem.size(path) or 0), asked_for=True)
            return
        is_glob = any(sign in path for sign in "*?[") and not filesystem.exists(path)
        above = posixpath.dirname(re.split(r"[*?[]", path)[0]) if is_glob else path
        for root in filesystem.glob(path) if is_glob else [path]:
            for name, info in filesystem.find(root, detail=True).items():
                below = str(name)[len(above) :].split("/")
                if not any(part.startswith(".") for part in below):
                    url = _url(filesystem, str(name))
                    yield _File(url, int(info["size"] or 0), asked_for=False)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"shards: {pattern!r} cannot be listed: {error}. Correct it.") from error


def _url(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    is_local = isinstance(filesystem, LocalFileSystem)
    return str(path if is_local else filesystem.unstrip_protocol(path))


def _format_of(file: _File, config: PoolConfig) -> Format | None:
    known = next((kind for end, kind in _SUFFIXES.items() if file.url.lower().endswith(end)), None)
    if config.format == "auto":
        return known
    if config.format == "text" or file.asked_for or known == config.format:
        return config.format
    return None


def _table_shard(file: _File, kind: Format, config: PoolConfig, domain: str | None) -> Shard:
    if domain is None and config.domain_from != "column":
        domain = _domain_of_path(file.url, config)
    return Shard(index=0, url=file.url, name="", format=kind, n_bytes=file.n_bytes, domain=domain)


def _text_shards(files: list[_File], config: PoolConfig, domain: str | None) -> Iterator[Shard]:
    """Gather neighbouring files of one folder and domain in shards of bounded size."""
    for folder, members in groupby(
        sorted(files, key=lambda file: (posixpath.dirname(file.url), file.url)),
        key=lambda file: posixpath.dirname(file.url),
    ):
        open_shard: Shard | None = None
        for row, file in enumerate(members):
            name = domain or _domain_of_path(file.url, config)
            if open_shard is not None and not _has_room(open_shard, name):
                yield open_shard
                open_shard = None
            before = open_shard or Shard(
                index=0, url=folder, name="", format="text", n_bytes=0, domain=name, first_row=row
            )
            open_shard = replace(
                before, n_bytes=before.n_bytes + file.n_bytes, files=(*before.files, file.url)
            )
        if open_shard is not None:
            yield open_shard


def _has_room(shard: Shard, domain: str) -> bool:
    return (
        shard.domain == domain
        and shard.n_bytes < _TEXT_SHARD_BYTES
        and len(shard.files) < _TEXT_SHARD_FILES
    )


def _domain_of_path(url: str, config: PoolConfig) -> str:
    if config.domain_from == "folder":
        name = posixpath.basename(posixpath.dirname(url))
    elif config.domain_from == "file":
        name = _stem(url)
    else:
        match = re.search(config.domain_pattern or "", url)
        if match is None:
            raise DataError(
                f"shard {url}: domain_pattern {config.domain_pattern!r} is not found in its path. "
                "Change the pattern, or leave the file out of shards."
            )
        name = match[1] or ""
    if not name.strip() or not name.isprintable():
        raise DataError(
            f"shard {url}: its {config.domain_from} gives the domain name {name!r}; names must be "
            "printable and not empty. Rename it, or take the domain from elsewhere (domain_from)."
        )
    return name


def _stem(url: str) -> str:
    return posixpath.basename(url.rstrip("/")).split(".")[0]


def _safe(stem: str) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower())[:_NAME_LENGTH].strip("-") or "shard"


def _compile(name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"{name} {pattern!r} is not a regular expression: {error}. Correct it."
        ) from error


def _check_share(name: str, share: float, *, below_one: bool) -> None:
    if not 0 <= share <= 1 or (below_one and share == 1):
        allowed = "[0, 1)" if below_one else "[0, 1]"
        raise ConfigError(f"{name} is {share}; it must lie in {allowed}.")
