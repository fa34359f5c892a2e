"""One table of broken inputs: each with its exact message, and with nothing half-written."""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from cuvee import artifacts

Settings = dict[str, Any]
"""A config as plain data."""
Change = Callable[[Path, Settings], None]
"""Breaks settings, or files below a folder of the case's own."""

WORDS = ["the", "cat", "saw", "a", "dog", "and", "a", "bird", "that", "sang", "to", "it"]
LOOSE = ("config.yaml", "corpus/rejects.jsonl", "targets/rejects.jsonl", "timing.json")
"""Files that stand outside finished artefacts and are whole when they are there."""
FORMATS = ".parquet, .jsonl, .jsonl.gz, .jsonl.zst, .json.gz, .json.zst, .bin, .npy"
SIZES = "0.03m, 0.05m, 0.1m, 0.2m, 0.4m, 0.8m, 1m, 1.5m, 3m, 10m, 20m, 30m, 60m, 85m, 300m, 800m"
NAME_RULE = (
    "cannot be part of a folder's name; use 1 to 64 letters, digits, '.', '_' or '-', the first a "
    "letter or digit."
)
POOL_KEYS = (
    "available_tokens, domain, domain_from, domain_missing, domain_pattern, exclude, format, "
    "group, group_strip, id, max_document_bytes, max_reject_share, shards, text, tokenizer, "
    "validation_share"
)
AGAIN = "Copy it again, or leave it out of shards; nothing of it is used."
DOMAINS = "animals, code, letters, numbers"


def records(n: int, domain: str = "web") -> list[dict[str, str]]:
    """Make sound documents of 40 words."""
    rng = np.random.default_rng(len(domain))
    return [
        {"id": f"{domain}-{k}", "text": " ".join(rng.choice(WORDS, 40)), "domain": domain}
        for k in range(n)
    ]


def lines(n: int, domain: str = "web") -> list[bytes]:
    """Make JSON lines of sound documents."""
    return [json.dumps(record).encode("utf-8") for record in records(n, domain)]


def use_pool(root: Path, settings: Settings, name: str, content: bytes) -> None:
    """Let the pool be one shard of the given bytes."""
    (root / "pool").mkdir()
    (root / "pool" / name).write_bytes(content)
    settings["pool"] = {"shards": [str(root / "pool")], "validation_share": 0.2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One malformed row."""

    name: str
    line: bytes
    reason: str
    detail: str


ROWS = (
    Row(
        name="broken JSON",
        line=b'{"id": "x", "text": "a b", "domain": "web"',
        reason="broken_json",
        detail="Expecting ',' delimiter at character 42",
    ),
    Row(
        name="not an object",
        line=b"[1, 2]",
        reason="not_an_object",
        detail="line holds an array, not an object",
    ),
    Row(
        name="no text",
        line=b'{"id": "x", "domain": "web"}',
        reason="missing_field",
        detail="'text' is missing",
    ),
    Row(
        name="not a string",
        line=b'{"id": "x", "text": 7, "domain": "web"}',
        reason="text_not_string",
        detail="'text' is the number 7, not a string",
    ),
    Row(
        name="invalid UTF-8",
        line=b'{"id": "x", "text": "caf\xe9", "domain": "web"}',
        reason="invalid_utf8",
        detail="line is not UTF-8: byte 0xe9 at position 24",
    ),
    Row(
        name="empty",
        line=b'{"id": "x", "text": " ", "domain": "web"}',
        reason="empty",
        detail="'text' is empty or blank",
    ),
    Row(
        name="duplicate id",
        line=lines(1)[0],
        reason="duplicate_id",
        detail="id 'web-0' occurs more than once; another row is kept",
    ),
    Row(
        name="lone surrogate",
        line=rb'{"id": "x", "text": "a \ud800", "domain": "web"}',
        reason="lone_surrogate",
        detail="'text' has the lone surrogate U+D800 at character 2",
    ),
    Row(
        name="NUL",
        line=rb'{"id": "x", "text": "a \u0000", "domain": "web"}',
        reason="nul",
        detail="'text' has a NUL at character 2",
    ),
    Row(
        name="too long",
        line=b'{"id": "x", "text": "' + b"a" * 70_000 + b'", "domain": "web"}',
        reason="too_long",
        detail="line of 70040 bytes; at most 65536 are allowed (max_document_bytes)",
    ),
    Row(
        name="no id",
        line=b'{"id": null, "text": "a b", "domain": "web"}',
        reason="bad_id",
        detail="'id' is null, not a string or number",
    ),
    Row(
        name="domain that steers the terminal",
        line=rb'{"id": "x", "text": "a b", "domain": "\u001b[2Jweb"}',
        reason="bad_domain",
        detail=r"'domain' is the string '\x1b[2Jweb', which is not printable",
    ),
)


def assert_nothing_half_written(out: Path) -> None:
    """Every file below is part of a finished artefact, or whole and of a known name."""
    for path in out.rglob("*") if out.is_dir() else ():
        assert not path.name.endswith((".partial", ".lock"))
        inside = any(artifacts.is_done(above) for above in path.parents)
        known = path.relative_to(out).as_posix() in LOOSE
        assert path.is_dir() or inside or known, path


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_malformed_rows_stop_the_run(
    row: Row,
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Above the limit the run stops and says so; each bad row is listed with place and reason."""
    use_pool(tmp_path, settings, "web.jsonl", b"\n".join([*lines(30), row.line, b""]))
    settings["pool"]["max_document_bytes"] = 65_536
    config, out = write_config(tmp_path / "c.yaml", settings), tmp_path / "out"
    ended = cuvee("label", config, "--out", out, "--workers", 0, "-q")
    rejects = out / "corpus" / "rejects.jsonl"
    assert ended.stderr == (
        "cuvee: pool: 1 of 31 rows were rejected (3.23%); at most 1.00% are allowed "
        f"(max_reject_share). Each is listed in {rejects} with its reason. Repair the rows, or "
        "raise max_reject_share.\n"
    )
    assert ended.status == 1
    assert [json.loads(line) for line in rejects.read_text(encoding="utf-8").splitlines()] == [
        {
            "shard": str(tmp_path / "pool" / "web.jsonl"),
            "row": 30,
            "reason": row.reason,
            "detail": row.detail,
        }
    ]
    assert_nothing_half_written(out)


def setting(path: str, value: object) -> Change:
    """Change one setting."""

    def change(_: Path, settings: Settings) -> None:
        *above, last = path.split(".")
        for key in above:
            settings = settings.setdefault(key, {})
        settings[last] = value

    return change


def without(path: str) -> Change:
    """Leave one setting out."""

    def change(_: Path, settings: Settings) -> None:
        *above, last = path.split(".")
        for key in above:
            settings = settings[key]
        del settings[last]

    return change


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(root: Path, settings: Settings) -> None:
        for one in changes:
            one(root, settings)

    return change


def shard(name: str, make: Callable[[], bytes]) -> Change:
    """Let the pool be one shard."""
    return lambda root, settings: use_pool(root, settings, name, make())


def parquet(rows: list[dict[str, str]]) -> bytes:
    """Write rows as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


def domain(name: str, n: int) -> Change:
    """Let the pool have a second domain of so many documents."""
    content = b"\n".join([*lines(30), *lines(n, name)])
    return both(shard("web.jsonl", lambda: content), setting("proxy.repetition_matched", False))


def target(name: str, n: int) -> Change:
    """Let there be one target of so many documents."""

    def change(root: Path, settings: Settings) -> None:
        path = root / "target.jsonl"
        path.write_bytes(b"\n".join(lines(n)))
        settings["targets"] = {"sets": {name: {"shards": [str(path)]}}}

    return change


def available(n_tokens: int) -> Change:
    """Declare so many tokens of every domain, so that messages do not depend on a tokenizer."""
    return setting("pool.available_tokens", dict.fromkeys(DOMAINS.split(", "), n_tokens))


def config_text(content: bytes) -> Change:
    """Replace the config file; the settings are not looked at."""
    return lambda root, settings: settings.update(raw=content)


def stranger(root: Path, _: Settings) -> None:
    """Put somebody's notes where --out points."""
    (root / "out").mkdir()
    (root / "out" / "notes.txt").write_text("mine", encoding="utf-8")


def plain_file(root: Path, _: Settings) -> None:
    """Put a file where --out points."""
    (root / "out").write_text("mine", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One broken input of `cuvee run regmix`."""

    name: str
    change: Change = lambda root, settings: None
    message: str
    """What follows ``cuvee: `` on standard error; ROOT stands for the case's folder."""
    options: tuple[str, ...] = ()
    method: str = "regmix"
    keeps: bool = False
    """Something stays at --out: finished artefacts, or what was there before."""


SHARDS = (
    Case(
        name="truncated gz",
        change=shard("web.jsonl.gz", lambda: gzip.compress(b"\n".join(lines(30)))[:-20]),
        message="shard ROOT/pool/web.jsonl.gz is truncated, damaged or unreadable: Truncated "
        f"compressed stream. {AGAIN}",
    ),
    Case(
        name="truncated zst",
        change=shard("web.jsonl.zst", lambda: zstandard.compress(b"\n".join(lines(30)))[:-20]),
        message="shard ROOT/pool/web.jsonl.zst is truncated, damaged or unreadable: Truncated "
        f"compressed stream. {AGAIN}",
    ),
    Case(
        name="truncated Parquet",
        change=shard("web.parquet", lambda: parquet(records(30))[:-20]),
        message="shard ROOT/pool/web.parquet is truncated, damaged or unreadable: Parquet magic "
        "bytes not found in footer. Either the file is corrupted or this is not a parquet file. "
        f"{AGAIN}",
    ),
    Case(
        name="truncated JSON lines",
        change=shard("web.jsonl", lambda: b"\n".join(lines(30))[:-10]),
        message="shard ROOT/pool/web.jsonl is truncated: its last line (29) ends in the middle of "
        f"a record, without a newline. {AGAIN}",
    ),
    Case(
        name="missing column",
        change=shard("web.parquet", lambda: parquet([{"id": "a", "body": "b", "domain": "web"}])),
        message="shard ROOT/pool/web.parquet has no column 'text' (text); its columns are id, "
        "body, domain. Set text to one of them.",
    ),
    Case(
        name="no shard of the pool",
        change=setting("pool.shards", ["/nowhere/pool"]),
        message=f"shards: '/nowhere/pool' matches no file ending in {FORMATS}. Correct the path, "
        "or set format.",
    ),
    Case(
        name="no shard of a target",
        change=setting("targets.sets.code.shards", ["/nowhere/*.jsonl"]),
        message=f"shards: '/nowhere/*.jsonl' matches no file ending in {FORMATS}. Correct the "
        "path, or set format.",
    ),
)
CONFIG = (
    Case(
        name="unknown key",
        change=setting("sede", 1),
        message="config key sede is unknown; allowed here: design, domain_epochs, domains, "
        "duplicates, fit, max_epochs, phases, pool, preset, proxy, reuse, runs, search, seed, "
        "select, sequential, start_runs, target_groups, target_tokens, targets, tokens, validate.",
    ),
    Case(
        name="unknown nested key",
        change=setting("targets.sets.code.shard", "x"),
        message=f"config key targets.sets.code.shard is unknown; allowed here: {POOL_KEYS}.",
    ),
    Case(
        name="missing section",
        change=without("pool"),
        message="config key pool is missing; add it.",
    ),
    Case(
        name="missing key",
        change=without("validate.n_tokens"),
        message="config key validate.n_tokens is missing; add it.",
    ),
    Case(
        name="word for a number",
        change=setting("seed", "x"),
        message="config key seed: Input should be a valid integer, unable to parse string as an "
        "integer (found 'x').",
    ),
    Case(
        name="number for a section",
        change=setting("design", 3),
        message="config key design: Input should be an object (found 3).",
    ),
    Case(
        name="word for a list",
        change=setting("pool.shards", "pool"),
        message="config key pool.shards: Input should be a valid array (found 'pool').",
    ),
    Case(
        name="not a number",
        change=setting("max_epochs", float("nan")),
        message="config key max_epochs is nan; it must be a finite number.",
    ),
    Case(
        name="bad YAML",
        change=config_text(b"pool: [1"),
        message="ROOT/c.yaml is not valid YAML: while parsing a flow sequence\n"
        '  in "<unicode string>", line 1, column 7:\n    pool: [1\n          ^\n'
        "expected ',' or ']', but got '<stream end>'\n"
        '  in "<unicode string>", line 1, column 9:\n    pool: [1\n            ^',
    ),
    Case(
        name="not a mapping",
        change=config_text(b"- pool\n"),
        message="config file ROOT/c.yaml holds list, not a mapping of keys.",
    ),
    Case(
        name="config not in UTF-8",
        change=config_text(b"pool: caf\xe9\n"),
        message="config file ROOT/c.yaml is not UTF-8. Save it as UTF-8.",
    ),
    Case(
        name="override without a value",
        options=("--set", "seed"),
        message="--set 'seed' is not KEY=VALUE, such as --set proxy.n_tokens=200000.",
    ),
    Case(
        name="override of an unknown key",
        options=("--set", "fit.folds=3"),
        message="config key fit.folds is unknown; allowed here: model, n_folds.",
    ),
    Case(
        name="unknown method",
        method="doremi",
        message="method 'doremi' is unknown; allowed: regmix, mixing-laws, continual, quadmix, "
        "quad.",
    ),
    Case(
        name="unknown preset",
        change=setting("preset", "papr"),
        message="config key preset: Input should be 'default' or 'paper' (found 'papr').",
    ),
)
VALUES = (
    Case(
        name="shares far from 1",
        change=setting("validate.mixtures", {"mine": {"code": 0.5, "letters": 0.4}}),
        message="config key validate: mixtures.mine sums to 0.9; shares of tokens must sum to 1 "
        "(tolerance 0.005).",
    ),
    Case(
        name="mixture named like a baseline",
        change=setting("validate.mixtures", {"natural": {"code": 1.0}}),
        message="config key validate: mixtures.natural takes a reserved name; choose another.",
    ),
    Case(
        name="mixture named like a path",
        change=setting("validate.mixtures", {"../mine": {"code": 1.0}}),
        message=f"config key validate: mixture name '../mine' {NAME_RULE}",
    ),
    Case(
        name="target named total",
        change=target("total", 9),
        message="config key targets: target name 'total' stands for all targets together; choose "
        "another name.",
    ),
    Case(
        name="target named like a path",
        change=target("../x", 9),
        message=f"config key targets: target name '../x' {NAME_RULE}",
    ),
    Case(
        name="target that steers the terminal",
        change=target("a\x1b[2J", 9),
        message=rf"config key targets: target name 'a\x1b[2J' {NAME_RULE}",
    ),
    Case(
        name="no target",
        change=setting("targets.sets", {}),
        message="config key targets: sets is empty; name at least one target, or leave targets "
        "out.",
    ),
    Case(
        name="own domains of an unknown target",
        change=setting("targets.own_domains", {"cod": ["code"]}),
        message="config key targets: own_domains names 'cod', which is not a target; targets are "
        "code, letters.",
    ),
    Case(
        name="negative weight of a target",
        change=setting("targets.weights", {"code": -1}),
        message="config key targets: weight of target 'code' is -1.0; it must be at least 0.",
    ),
    Case(
        name="budget below one batch",
        change=setting("proxy.n_tokens", 100),
        message="config key proxy: n_tokens 100 is below one batch of 512 tokens. Raise n_tokens "
        "or lower batch_tokens.",
    ),
    Case(
        name="validation below one batch",
        change=setting("validate.n_tokens", 100),
        message="config: validate: n_tokens 100 is below one batch of 512 tokens. Raise n_tokens "
        "or lower batch_tokens.",
    ),
    Case(
        name="validation points that end early",
        change=setting("validate.points", [0.5]),
        message="config: validate: points (0.5,) must rise within (0, 1] and end at 1, such as "
        "(0.5, 1.0).",
    ),
    Case(
        name="unknown size of proxies",
        change=setting("proxy.size", "2m"),
        message=f"config key proxy: model size '2m' is unknown; allowed: {SIZES}.",
    ),
    Case(
        name="stack of no runs",
        change=setting("proxy.stack", 0),
        message="config key proxy: stack 0 is no number of runs; give auto, none, or 1 and more.",
    ),
    Case(
        name="stack that is no number",
        change=setting("proxy.stack", "many"),
        message="config key proxy.stack: Input should be 'auto' or 'none'; or Input should be a "
        "valid integer, unable to parse string as an integer (found 'many').",
    ),
    Case(
        name="unknown size of validation",
        change=setting("validate.size", "2m"),
        message=f"config: validate: model size '2m' is unknown; allowed: {SIZES}.",
    ),
    Case(
        name="unknown fit model",
        change=setting("fit.model", "gp"),
        message="config key fit: model 'gp' is unknown; choose one of linear, boosted-trees, "
        "exponential, bivariate-power, effective-data-power, implicit-law, distilled-law, "
        "log-gaussian-process, shared-gaussian-process, ensemble.",
    ),
    Case(
        name="bounds that do not ascend",
        change=setting("search.bounds", {"code": [0.6, 0.5]}),
        message="config key search: bounds of domain 'code' are 0.6 to 0.5; they must ascend "
        "within [0, 1].",
    ),
    Case(
        name="bounds that conflict",
        change=setting("search.bounds", {"code": [0.6, 1], "letters": [0.5, 1]}),
        message="config key search: the bounds' least shares sum to 1.1; they must sum to at most "
        "1. Lower one of them.",
    ),
    Case(
        name="epoch limit of 0",
        change=setting("domain_epochs", {"code": 0}),
        message="config: epoch limit code is 0.0; it must be above 0.",
    ),
)
POOL = (
    Case(
        name="domain with one document",
        change=domain("tiny", 1),
        message="domain 'tiny' has no training tokens; every domain needs text. Remove it from "
        "the pool or give it documents.",
        keeps=True,
    ),
    Case(
        name="domain without text for both halves",
        change=both(domain("tiny", 2), without("targets")),
        message="domain 'tiny' has 1 validation documents; it needs at least 2. Give it more "
        "documents, raise pool.validation_share, or merge it with another domain.",
        keeps=True,
    ),
    Case(
        name="domain named total without targets",
        change=both(domain("total", 30), without("targets")),
        message="domain 'total' bears the name that stands for all targets together; without "
        "targets the domains are the targets. Rename the domain, or give targets.",
        keeps=True,
    ),
    Case(
        name="empty pool",
        change=shard("web.jsonl", lambda: b"\n"),
        message="the pool has no documents: none in 1 shards. Give it documents.",
        keeps=True,
    ),
    Case(
        name="target without text",
        change=target("qa", 0),
        message="target 'qa' has 0 documents in its search half and 0 in its verdict half; each "
        "half needs some. Give it more documents.",
        keeps=True,
    ),
    Case(
        name="target with one document",
        change=target("qa", 1),
        message="target 'qa' has 1 documents in its search half and 0 in its verdict half; each "
        "half needs some. Give it more documents.",
        keeps=True,
    ),
    Case(
        name="available tokens of an unknown domain",
        change=setting("pool.available_tokens", {"cod": 10}),
        message="available_tokens names the domain 'cod', which the pool does not have; its "
        f"domains are {DOMAINS}. Correct the name.",
        keeps=True,
    ),
    Case(
        name="own domain unknown",
        change=setting("targets.own_domains", {"code": ["cod"]}),
        message="targets.own_domains.code names 'cod', which is not a domain of the pool; domains "
        f"are {DOMAINS}.",
        keeps=True,
    ),
    Case(
        name="epochs of an unknown domain",
        change=setting("domain_epochs", {"cod": 2}),
        message=f"domain_epochs names 'cod', which is not a domain; domains are {DOMAINS}.",
        keeps=True,
    ),
    Case(
        name="mixture of an unknown domain",
        change=setting("validate.mixtures", {"mine": {"code": 0.5, "cod": 0.5}}),
        message="validate.mixtures.mine names domain 'cod', which the pool does not have; its "
        f"domains are {DOMAINS}.",
        keeps=True,
    ),
    Case(
        name="bounds of an unknown domain",
        change=setting("search.bounds", {"cod": [0, 1]}),
        message=f"bounds name domain 'cod', which the pool does not have; its domains are "
        f"{DOMAINS}.",
        keeps=True,
    ),
    Case(
        name="bounds above the supply",
        change=both(
            available(4096),
            setting("domain_epochs", {"code": 1}),
            setting("search.bounds", {"code": [0.6, 1]}),
        ),
        message="domain 'code' must have at least 0.6 but can have at most 0.25 (bounds and supply "
        "together). Lower its least share, or allow it more epochs.",
        keeps=True,
    ),
    Case(
        name="caps that cannot be met",
        change=both(available(1000), setting("max_epochs", 4)),
        message="the pool holds 16000 tokens when repeated to its epoch limits, fewer than the "
        "target budget of 16384. Lower the budget, allow more epochs or add text.",
        keeps=True,
    ),
    Case(
        name="subset too small",
        change=both(available(4096), setting("proxy.min_subset_tokens", 2049)),
        message="repetition matching leaves domain 'animals' 2048 tokens (50.00% of its available "
        "tokens); the least is 2049. Raise proxy.n_tokens, lower target_tokens, merge the domain "
        "with another, or set proxy.repetition_matched: false.",
        keeps=True,
    ),
    Case(
        name="too few runs",
        change=setting("design.n_runs", 5),
        message="n_runs is 5; the design has 4 fixed points (natural, uniform, own-code, "
        "own-letters) and needs at least 2 draws. Use n_runs >= 6.",
        keeps=True,
    ),
)
PLACES = (
    Case(
        name="foreign files in --out",
        change=stranger,
        message="ROOT/out holds files that cuvee did not make (notes.txt); choose an empty or new "
        "--out.",
        keeps=True,
    ),
    Case(
        name="--out is a file",
        change=plain_file,
        message="ROOT/out is not a folder; choose another --out.",
        keeps=True,
    ),
)


@pytest.mark.parametrize(
    "case", [*SHARDS, *CONFIG, *VALUES, *POOL, *PLACES], ids=lambda case: case.name
)
def test_broken_input_gets_its_message(
    case: Case,
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """The command ends with status 1 and one exact message, and leaves nothing half-written."""
    case.change(tmp_path, settings)
    config, out = tmp_path / "c.yaml", tmp_path / "out"
    raw = settings.pop("raw", None)
    if raw is None:
        write_config(config, settings)
    else:
        config.write_bytes(raw)
    ended = cuvee("run", case.method, config, "--out", out, "--workers", 0, "-q", *case.options)
    assert ended.stderr == f"cuvee: {case.message.replace('ROOT', str(tmp_path))}\n"
    assert (ended.status, ended.stdout) == (1, "")
    assert out.exists() == case.keeps
    if case not in PLACES:
        assert_nothing_half_written(out)
    elif out.is_dir():
        assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_selection_that_repeats_too_often(
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """More tokens than the epoch limits allow are refused before anything is trained."""
    settings["select"] = {"n_tokens": 10**7}
    config, out = write_config(tmp_path / "c.yaml", settings), tmp_path / "out"
    ended = cuvee("run", "regmix", config, "--out", out, "--workers", 0, "-q")
    assert ended.stderr.startswith(
        "cuvee: the selection is to have 10,000,000 tokens, but the text given has "
    )
    assert ended.stderr.endswith(", raise max_epochs, or give more text.\n")
    assert ended.status == 1
    assert not (out / "sweep").exists()
    assert_nothing_half_written(out)


def test_unusable_device_is_refused_at_once(
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """A device torch does not know, or does not have here, stops the run before it begins."""
    settings["proxy"]["device"] = "gpu"
    config, out = write_config(tmp_path / "c.yaml", settings), tmp_path / "out"
    ended = cuvee("run", "regmix", config, "--out", out, "-q")
    assert ended.stderr.startswith("cuvee: proxy.device 'gpu' cannot be used here (")
    assert ended.stderr.endswith("). Set it to cpu, cuda or auto.\n")
    assert ended.status == 1
    assert not out.exists()


def test_mistake_can_be_corrected_under_the_same_out(
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """A misspelt path does not tie the folder to the config that misspelt it."""
    config, out = tmp_path / "c.yaml", tmp_path / "out"
    right = settings["pool"]["shards"]
    settings["pool"]["shards"] = ["/nowhere"]
    options = ("--out", out, "--workers", 0, "-q")
    assert cuvee("label", write_config(config, settings), *options).status == 1
    settings["pool"]["shards"] = right
    assert cuvee("label", write_config(config, settings), *options).status == 0


def test_domain_names_are_never_paths(
    settings: Settings,
    write_config: Callable[[Path, Mapping[str, object]], Path],
    tmp_path: Path,
    cuvee: Callable[..., Any],
) -> None:
    """Domains may be called what they like, slashes and dots included: nothing is named so."""
    names = ("../../up", "/root", "a/b", "..")
    content = b"\n".join(line for name in names for line in lines(30, name))
    (tmp_path / "inner").mkdir()
    use_pool(tmp_path / "inner", settings, "web.jsonl", content)
    settings["proxy"]["repetition_matched"] = False
    settings["target_tokens"] = 8_192
    del settings["targets"]
    out = tmp_path / "inner" / "out"
    config = write_config(tmp_path / "inner" / "c.yaml", settings)
    for verb in ("label", "design"):
        ended = cuvee(verb, config, "--out", out, "--workers", 0, "-q")
        assert (ended.status, ended.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    assert sorted(path.name for path in (tmp_path / "inner").iterdir()) == ["c.yaml", "out", "pool"]
    assert not any(name in path.name for path in out.rglob("*") for name in ("up", "root"))
    domains = pq.read_table(out / "design" / "design.parquet").column_names
    assert all(any(name in column for column in domains) for name in names)


def test_config_file_missing(tmp_path: Path, cuvee: Callable[..., Any]) -> None:
    """The path is named, and nothing is made."""
    ended = cuvee("run", "regmix", tmp_path / "no.yaml", "--out", tmp_path / "out")
    assert ended.stderr == (
        f"cuvee: config file {tmp_path / 'no.yaml'} does not exist. Give the path of a YAML file.\n"
    )
    assert ended.status == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("run", "regmix"), "config"),
        (("ship",), "ship"),
        (("show", "x", "--wide"), "--wide"),
        (("label", "x", "--workers", "-1"), "--workers"),
        (("predict", "x", "--weights", "w"), "--out"),
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: tuple[str, ...], word: str, cuvee: Callable[..., Any]
) -> None:
    """Wrong usage has its own exit status and shows how the verb is called."""
    ended = cuvee(*arguments)
    assert (ended.status, ended.stdout) == (2, "")
    assert ended.stderr.startswith("Usage: ")
    usage, _, message = ended.stderr.partition("Error: ")
    assert word in message.lower(), usage
    assert "Traceback" not in ended.stderr
