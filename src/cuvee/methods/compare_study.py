"""What is compared: the shared settings, every method's own, and the answers they end in."""

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuvee import artifacts, config
from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.methods import chain, curves, quad_study, quadmix
from cuvee.methods.chain import ChainConfig
from cuvee.methods.job import Job
from cuvee.methods.pool import Prepared
from cuvee.methods.quad_study import QuadConfig
from cuvee.methods.quadmix import QuaDMixConfig
from cuvee.methods.search_cost import SearchCost, influence_cost, training_cost
from cuvee.methods.table import Method, method_named
from cuvee.policy.mixture import Mixture
from cuvee.policy.quality_curve import curves_to_json
from cuvee.proxy.spec import TrainingSpec
from cuvee.proxy.sweep import ProxyConfig
from cuvee.simplex import cap
from cuvee.validate.compare import named_mixtures

METHOD_KINDS = ("regmix", "mixing-laws", "quadmix", "quad")
"""Methods that end in an answer for given targets and can be compared."""
NATURAL, UNIFORM = "natural", "uniform"
_COMMON = ("seed", "pool", "targets", "target_tokens", "tokens", "validate")
"""Keys that no method may have for itself: with others nothing would be equal."""
_QUAD_SHARES = (*_COMMON, "proxy", "select")
_SHARED_FOLDERS = ("corpus", "labels/domain", "tokenizer", "tokens", "targets")
"""What reading, splitting and tokenising leave; equal for all methods."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig(ChainConfig):
    """All settings of `cuvee compare`."""

    methods: Mapping[str, Mapping[str, Any]]
    """By name: ``method`` (regmix, mixing-laws, quadmix, quad) and that method's own keys, laid
    over the shared ones."""
    baselines: tuple[str, ...] = (NATURAL, UNIFORM)
    """natural, uniform, and NAME.RIVAL of a method above: best-sampled of regmix and mixing-laws,
    top-CRITERION and union-of-tops of quadmix, random, uniform and top-influence of quad. The
    mixtures of validate.mixtures are judged too."""

    def __post_init__(self) -> None:
        ChainConfig.__post_init__(self)
        if not self.methods:
            raise ConfigError("methods is empty; name at least one method.")
        for name, own in self.methods.items():
            _check_method(name, own)
        for name in self.baselines:
            if name not in (NATURAL, UNIFORM) and name.partition(".")[0] not in self.methods:
                raise ConfigError(
                    f"baseline {name!r} is unknown; give natural, uniform, or NAME.RIVAL with the "
                    f"name of a method: {', '.join(self.methods)}."
                )
        names = (*self.methods, *self.baselines, *self.validate.mixtures)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"{twice[0]!r} is the name of two contenders; rename one.")
        if len(names) < 2:
            raise ConfigError(f"{names[0]!r} is alone; name another method or a baseline.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A method with its resolved config."""

    name: str
    kind: str
    method: Method
    settings: Any
    """The method's own config."""

    def job(self, job: Job) -> Job:
        """Return its place of work inside the comparison's."""

        def progress(stage: str, done: int, total: int, note: str) -> None:
            job.progress(f"{self.name}: {stage}", done, total, note)

        return Job(out=job.folder("methods", self.name), workers=job.workers, progress=progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """An answer, or a baseline, as it is trained on."""

    name: str
    kind: Literal["method", "baseline"]
    mixture: Mixture
    """Shares of its tokens."""
    cost: SearchCost = field(default_factory=SearchCost)
    curve: Mapping[str, Json] | None = None
    """Quality curves that sample documents, with the file of ``quality``."""
    quality: str | None = None
    copies: str | None = None
    """File of whole copies of every document."""

    def amend(self, spec: TrainingSpec) -> TrainingSpec:
        """Say in a run's spec what documents it takes, where it is more than a mixture."""
        curve = None if self.curve is None else dict(self.curve)
        return replace(spec, curve=curve, quality=self.quality, copies=self.copies)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareStudy:
    """A comparison's settings with every method's own, resolved."""

    settings: CompareConfig
    entrants: tuple[Entrant, ...]


def load_study(path: Path, overrides: tuple[str, ...] = ()) -> CompareStudy:
    """Read a config file and resolve every method's own config.

    Args:
        path: A YAML file.
        overrides: ``a.b=value`` settings that replace the file's.

    Raises:
        ConfigError: The file, or one method's settings, are wrong; the message names the method.
    """
    plain = config.load(dict[str, Any], path, overrides)
    settings = config.parse(CompareConfig, plain)
    entrants = []
    for name, own in settings.methods.items():
        kind = str(own["method"])
        method = method_named(kind)
        try:
            loaded = _load_method(method, _merged(kind, plain, own))
            entrants.append(Entrant(name=name, kind=kind, method=method, settings=loaded))
        except ConfigError as error:
            raise ConfigError(f"methods.{name}: {error}") from error
    for baseline in settings.baselines:
        _check_rival(baseline, {one.name: one for one in entrants})
    return CompareStudy(settings=settings, entrants=tuple(entrants))


def share_preparation(job: Job, own: Job) -> None:
    """Give a method's folder the pool and the targets as they are read and tokenised already.

    Files are linked, not copied, where the file system can: artefacts are never written again.

    Args:
        job: The comparison's folder, labelled.
        own: The method's folder.
    """
    for name in _SHARED_FOLDERS:
        source, place = job.folder(*name.split("/")), own.folder(*name.split("/"))
        if place.exists() or not source.exists():
            continue
        aside = place.with_name(place.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, aside, copy_function=_link)
        aside.replace(place)


def contenders(study: CompareStudy, job: Job, prepared: Prepared) -> tuple[Contender, ...]:
    """Gather every answer and baseline: methods first, each in the order given.

    Args:
        study: The settings.
        job: The comparison's folder, all methods searched.
        prepared: The pool.
    """
    answers = {one.name: _answers(one, one.job(job), prepared) for one in study.entrants}
    found = [
        replace(answers[name][""](), name=name, kind="method") for name in study.settings.methods
    ]
    for name in study.settings.baselines:
        owner, _, rival = name.partition(".")
        if rival:
            found.append(replace(answers[owner][rival](), name=name))
        else:
            found.append(_plain_baseline(study.settings, name, prepared))
    domains = prepared.statistics.domains
    found += [
        Contender(name=name, kind="baseline", mixture=Mixture.flat(domains, weights))
        for name, weights in named_mixtures(study.settings.validate, domains).items()
    ]
    return tuple(found)


def _check_method(name: str, own: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(name) or name in (NATURAL, UNIFORM):
        raise ConfigError(
            f"method name {name!r} cannot be a contender's; use 1 to 40 letters, digits, '_' or "
            "'-', the first a letter or digit, and not natural or uniform."
        )
    if own.get("method") not in METHOD_KINDS:
        found = own.get("method", "none")
        raise ConfigError(
            f"methods.{name}.method is {found!r}; allowed: {', '.join(METHOD_KINDS)}."
        )
    for key in _COMMON:
        if key in own:
            raise ConfigError(
                f"methods.{name}.{key} is set, but all methods share it; set {key} at the top."
            )


def _merged(kind: str, plain: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a method's own keys over the shared ones, sections key by key."""
    shared = {key: value for key, value in plain.items() if key not in ("methods", "baselines")}
    if kind == "quad":
        unheeded = sorted({"search", "phases"} & set(shared))
        if unheeded:
            raise ConfigError(
                f"quad does not heed {unheeded[0]}; set it below each method that does."
            )
        shared = {key: value for key, value in shared.items() if key in _QUAD_SHARES}
    own_keys = {key: value for key, value in own.items() if key != "method"}
    merged = {"preset": "default", **shared, **own_keys}
    for key in ("proxy", "search", "select"):
        below, above = shared.get(key), own.get(key)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            merged[key] = {**below, **above}
    if kind == "quad":  # it would judge by continuing its own model; here it is judged with others
        size = (merged.get("proxy") or {}).get("size", ProxyConfig().size)
        merged["validate"] = {**merged["validate"], "size": size}
    return merged


def _load_method(method: Method, settings: Mapping[str, Any]) -> Any:
    """Resolve by the method's own loader, which reads files: presets and messages are its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "method.yaml"
        path.write_text(config.to_yaml(settings), encoding="utf-8")
        return method.load(path, ())


def _check_rival(baseline: str, entrants: Mapping[str, Entrant]) -> None:
    owner, _, rival = baseline.partition(".")
    if not rival:
        return
    known = _rival_names(entrants[owner])
    if rival not in known:
        raise ConfigError(
            f"baseline {baseline!r}: {owner} has no rival {rival!r}; it has "
            f"{', '.join(known) or 'none'}."
        )


def _rival_names(one: Entrant) -> tuple[str, ...]:
    if isinstance(one.settings, QuaDMixConfig):
        criteria = tuple(f"top-{name}" for name in one.settings.criteria)
        union = (curves.UNION,) if len(criteria) > 1 else ()
        return (*criteria, *union, *one.settings.rivals)
    if isinstance(one.settings, QuadConfig):
        return tuple(name for name in one.settings.rivals if name != "greedy")
    return ("best-sampled", *(("one-phase",) if len(one.settings.phases) > 1 else ()))


def _link(source: str, place: str) -> None:
    try:
        Path(place).hardlink_to(source)
    except OSError:  # a file system without hard links, or another one
        shutil.copy2(source, place)


def _plain_baseline(settings: CompareConfig, name: str, prepared: Prepared) -> Contender:
    """Return natural or uniform shares, within what supply and epoch limits allow."""
    statistics, limits = prepared.statistics, chain.caps(settings, prepared)
    shares = statistics.natural if name == NATURAL else np.full(len(limits), 1.0 / len(limits))
    mixture = Mixture.flat(statistics.domains, cap(shares, upper=limits))
    return Contender(name=name, kind="baseline", mixture=mixture)


def _answers(one: Entrant, own: Job, prepared: Prepared) -> Mapping[str, Callable[[], Contender]]:
    """Return what makes a method's answer (under the empty name) and its rivals, when asked."""
    if isinstance(one.settings, QuaDMixConfig):
        return _curve_answers(one.settings, own, prepared, one.name)
    if isinstance(one.settings, QuadConfig):
        return _copies_answers(one.settings, own, prepared, one.name)
    return _mixture_answers(one.settings, own, prepared, one.name)


def _mixture_answers(
    settings: ChainConfig, own: Job, prepared: Prepared, name: str
) -> Mapping[str, Callable[[], Contender]]:
    cost = training_cost(own, vocabulary_size=prepared.store.vocabulary_size)
    mixtures = chain.rivals(settings, own, prepared)

    def make(key: str) -> Contender:
        # The best sampled mixture was found by the same runs, so it cost the same.
        return Contender(name=name, kind="baseline", mixture=mixtures[key], cost=cost)

    keys = {"": "chosen", "best-sampled": "best-sampled", "one-phase": "one-phase"}
    return {rival: partial(make, key) for rival, key in keys.items() if key in mixtures}


def _curve_answers(
    settings: QuaDMixConfig, own: Job, prepared: Prepared, name: str
) -> Mapping[str, Callable[[], Contender]]:
    n_documents = len(prepared.store.keys)
    cost = training_cost(
        own,
        vocabulary_size=prepared.store.vocabulary_size,
        n_labels=n_documents * len(settings.criteria),
    )
    some = quadmix.rival_curves(settings, own, prepared)

    def make(key: str) -> Contender:
        one = some[key]
        n_labels = n_documents * (len(settings.criteria) if key == curves.UNION else 1)
        return Contender(
            name=name,
            kind="baseline",
            mixture=one.mixture,
            cost=cost if key == quadmix.CHOSEN else SearchCost(n_labels=n_labels),
            curve=curves_to_json(one.curves),
            quality=str(one.quality),
        )

    keys = {"": quadmix.CHOSEN, **{key: key for key in some if key != quadmix.CHOSEN}}
    return {rival: partial(make, key) for rival, key in keys.items()}


def _copies_answers(
    settings: QuadConfig, own: Job, prepared: Prepared, name: str
) -> Mapping[str, Callable[[], Contender]]:
    def make(rival: str) -> Contender:
        path = own.folder("optimum") / quad_study.COPIES
        cost = SearchCost(n_labels=len(prepared.store.keys))
        if rival:
            path = quad_study.rival_files(settings, own, prepared)[rival]
        if rival in ("", "top-influence"):
            cost = influence_cost(settings, own, prepared, everything=bool(rival))
        return Contender(
            name=name,
            kind="baseline",
            mixture=quad_study.mixture_of(prepared, np.load(path, allow_pickle=False)),
            cost=cost,
            copies=str(path),
        )

    return {rival: partial(make, rival) for rival in ("", *settings.rivals)}


def search_steps(one: Entrant) -> tuple[str, ...]:
    """Return a method's stages up to its answer, in order."""
    verbs = tuple(one.method.steps)
    return verbs[: verbs.index("search") + 1]


def answer_digests(study: CompareStudy, job: Job) -> dict[str, str]:
    """Return the digest of every method's answer, by its name."""
    return {one.name: artifacts.digest_of(one.job(job).folder("optimum")) for one in study.entrants}
