"""Which files are the pool, what their domains are called, and which configs are refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cuvee import config
from cuvee.corpus.pool import PoolConfig, list_shards
from cuvee.errors import ConfigError, DataError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def _listed(folder: Path, *patterns: str, **settings: object) -> list[str]:
    shards = tuple(str(folder / pattern) for pattern in patterns)
    found = list_shards(PoolConfig(shards=shards, **settings))
    assert [shard.index for shard in found] == list(range(len(found)))
    return [str(Path(shard.url).relative_to(folder)) for shard in found]


def test_folders_globs_and_files_are_listed_by_url(tmp_path: Path) -> None:
    """Each file once, other kinds and hidden files passed over."""
    _touch(tmp_path, "b/x.jsonl", "b/deep/y.JSONL.GZ", "a.parquet", "c.jsonl.zst", "README.md")
    _touch(tmp_path, "b/.git/z.jsonl", "b/.w.jsonl")
    everything = ["a.parquet", "b/deep/y.JSONL.GZ", "b/x.jsonl", "c.jsonl.zst"]
    assert _listed(tmp_path, ".") == everything
    assert _listed(tmp_path, "*", "a.parquet") == everything
    assert _listed(tmp_path, "b/*.jsonl") == ["b/x.jsonl"]
    assert _listed(tmp_path, ".", format="parquet") == ["a.parquet"]
    assert _listed(tmp_path, "README.md", format="jsonl") == ["README.md"]


def test_shard_names_are_unique_and_safe(tmp_path: Path) -> None:
    """Text from file names never reaches a path unchanged."""
    _touch(tmp_path, "a/Train .set.jsonl", "b/Train .jsonl", "c/日本.jsonl", f"d/{'x' * 90}.jsonl")
    names = [shard.name for shard in list_shards(PoolConfig(shards=(str(tmp_path),)))]
    assert names == ["00000-train", "00001-train", "00002-shard", f"00003-{'x' * 48}"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"domain_from": "folder"}, ["en", "de"]),
        ({"domain_from": "file"}, ["wiki", "law"]),
        ({"domain_from": "pattern", "domain_pattern": r"/(\w)\w/"}, ["e", "d"]),
        ({}, [None, None]),
    ],
)
def test_domain_comes_from_the_path(
    tmp_path: Path, settings: Mapping[str, str], expected: list[str | None]
) -> None:
    """By folder, file or pattern."""
    _touch(tmp_path, "1/en/wiki.x.jsonl", "2/de/law.jsonl")
    shards = list_shards(PoolConfig(shards=(str(tmp_path),), **settings))
    assert [shard.domain for shard in shards] == expected


def test_text_files_are_gathered_by_folder_and_domain(tmp_path: Path) -> None:
    """Rows number the files of a folder, also where it makes several shards."""
    _touch(tmp_path, "a/x-1.txt", "a/x-2.txt", "a/y-1.txt", "b/x-1.txt")
    settings = {"domain_from": "pattern", "domain_pattern": "/(x|y)-"}
    shards = list_shards(PoolConfig(shards=(str(tmp_path),), format="text", **settings))
    assert [(Path(one.url).name, one.first_row, len(one.files), one.domain) for one in shards] == [
        ("a", 0, 2, "x"),
        ("a", 2, 1, "y"),
        ("b", 0, 1, "x"),
    ]


def test_no_match_is_refused(tmp_path: Path) -> None:
    """The pattern is named, and what else is there."""
    _touch(tmp_path, "README.md")
    kinds = ".parquet, .jsonl, .jsonl.gz, .jsonl.zst, .json.gz, .json.zst, .bin, .npy"
    for pattern, others in (
        ("nowhere", ""),
        ("*.parquet", ""),
        (".", " (other files there: 1)"),
    ):
        with pytest.raises(DataError) as caught:
            list_shards(PoolConfig(shards=(str(tmp_path / pattern),)))
        assert str(caught.value) == (
            f"shards: {str(tmp_path / pattern)!r} matches no file ending in {kinds}{others}. "
            "Correct the path, or set format."
        )


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    """A file named one by one is not passed over."""
    _touch(tmp_path, "a.csv")
    with pytest.raises(DataError) as caught:
        list_shards(PoolConfig(shards=(str(tmp_path / "a.csv"),)))
    assert str(caught.value) == (
        f"shard {tmp_path}/a.csv: its format cannot be told by its name; known are .parquet, "
        ".jsonl, .jsonl.gz, .jsonl.zst, .json.gz, .json.zst, .bin, .npy. Rename it or set format."
    )


def test_unknown_protocol_is_refused() -> None:
    """A URL no filesystem knows."""
    with pytest.raises(DataError) as caught:
        list_shards(PoolConfig(shards=("nosuch://bucket/a.jsonl",)))
    assert str(caught.value) == (
        "shards: 'nosuch://bucket/a.jsonl' cannot be listed: Protocol not known: nosuch. "
        "Correct it."
    )


def test_path_without_domain_is_refused(tmp_path: Path) -> None:
    """A pattern that is not found, or finds nothing printable."""
    _touch(tmp_path, "a.jsonl")
    settings = {"shards": (str(tmp_path),), "domain_from": "pattern"}
    with pytest.raises(DataError) as caught:
        list_shards(PoolConfig(**settings, domain_pattern="/(zz)/"))
    assert str(caught.value) == (
        f"shard {tmp_path}/a.jsonl: domain_pattern '/(zz)/' is not found in its path. Change the "
        "pattern, or leave the file out of shards."
    )
    with pytest.raises(DataError) as caught:
        list_shards(PoolConfig(**settings, domain_pattern="a(z*)"))
    assert str(caught.value) == (
        f"shard {tmp_path}/a.jsonl: its pattern gives the domain name ''; names must be printable "
        "and not empty. Rename it, or take the domain from elsewhere (domain_from)."
    )


def test_text_files_without_domain_are_refused(tmp_path: Path) -> None:
    """They have no columns; a target set names the domain itself."""
    _touch(tmp_path, "a.txt")
    settings = PoolConfig(shards=(str(tmp_path),), format="text")
    with pytest.raises(ConfigError) as caught:
        list_shards(settings)
    assert str(caught.value) == (
        "format is 'text' and domain_from is 'column', but text files have no columns; take "
        "the domain from 'folder', 'file' or 'pattern'."
    )
    assert [shard.domain for shard in list_shards(settings, domain="qa")] == ["qa"]


BAD_CONFIGS = [
    (
        {"shards": []},
        "config: shards is empty; name at least one file, folder, glob or URL.",
    ),
    (
        {"max_reject_share": 1.5},
        "config: max_reject_share is 1.5; it must lie in [0, 1].",
    ),
    (
        {"validation_share": 1},
        "config: validation_share is 1.0; it must lie in [0, 1).",
    ),
    (
        {"max_document_bytes": 0},
        "config: max_document_bytes is 0; it must be at least 1.",
    ),
    (
        {"available_tokens": {"web": 0}},
        "config: available_tokens of domain 'web' is 0; it must be at least 1. Leave the "
        "domain out where the pool given is the real one.",
    ),
    (
        {"domain": None},
        "config: domain is null but domain_from is 'column'; name the column, or take "
        "the domain from 'folder', 'file' or 'pattern'.",
    ),
    (
        {"domain_from": "pattern"},
        "config: domain_from is 'pattern' and domain_pattern is None; give "
        "domain_pattern exactly when domain_from is 'pattern'.",
    ),
    (
        {"domain_from": "pattern", "domain_pattern": "a"},
        "config: domain_pattern 'a' has 0 groups; it must have exactly one: the domain's "
        "name in parentheses.",
    ),
    (
        {"group_strip": "("},
        "config: group_strip '(' is not a regular expression: missing ), unterminated "
        "subpattern at position 0. Correct it.",
    ),
    (
        {"txt": "a"},
        "config key txt is unknown; allowed here: available_tokens, domain, domain_from, "
        "domain_missing, domain_pattern, exclude, format, group, group_strip, id, "
        "max_document_bytes, max_reject_share, shards, text, tokenizer, validation_share.",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD_CONFIGS)
def test_bad_config_is_refused(settings: dict[str, object], message: str) -> None:
    """Each with its message, found and allowed."""
    with pytest.raises(ConfigError) as caught:
        config.parse(PoolConfig, {"shards": ["x"], **settings})
    assert str(caught.value) == message


def test_config_survives_plain_data() -> None:
    """What is written with an artefact reads back equal."""
    settings = PoolConfig(shards=("a", "b"), available_tokens={"web": 3}, domain_from="folder")
    assert config.parse(PoolConfig, config.dump(settings)) == settings
