"""The methods by name: the one table from which command-line choices come."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cuvee.artifacts import Json
from cuvee.errors import ConfigError
from cuvee.methods.job import Job

if TYPE_CHECKING:  # it brings torch
    from cuvee.proxy.spec import TrainingSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What the command line needs of a method."""

    load: Callable[[Path, tuple[str, ...]], Any]
    """Read a config file with overrides."""
    run: Callable[[Any, Job], None]
    """Run the whole chain."""
    steps: Mapping[str, Callable[[Any, Job], None]]
    """The arrows by verb."""
    dry_run: Callable[[Any, Job], dict[str, Json]]
    """Plan and cost."""
    describe_plan: Callable[[dict[str, Json]], str]
    summary: Callable[[Any, Job], dict[str, Json]]
    """The result as JSON."""
    describe: Callable[[Any, Job], str]
    """The result for people."""
    planned: "Callable[[Any, Job], Mapping[str, TrainingSpec]] | None" = None
    """The sweep's runs by id, as far as they are known before any is measured; what they need, such
    as a learning rate, is made. None where there is no sweep."""


def _regmix() -> Method:
    # Imported on demand: it brings torch, which verbs such as predict and show can do without.
    from cuvee.methods import planning, regmix

    return Method(
        load=regmix.load_config,
        run=regmix.run,
        steps=regmix.STEPS,
        dry_run=regmix.dry_run,
        describe_plan=planning.describe,
        summary=regmix.summary,
        describe=regmix.describe,
        planned=regmix.planned,
    )


def _mixing_laws() -> Method:
    from cuvee.methods import chain, mixing_laws, planning

    return Method(
        load=mixing_laws.load_config,
        run=mixing_laws.run,
        steps=mixing_laws.STEPS,
        dry_run=mixing_laws.dry_run,
        describe_plan=planning.describe,
        summary=chain.summary,
        describe=mixing_laws.describe,
        planned=mixing_laws.planned,
    )


def _continual() -> Method:
    from cuvee.methods import continual, planning

    return Method(
        load=continual.load_config,
        run=continual.run,
        steps=continual.STEPS,
        dry_run=continual.dry_run,
        describe_plan=planning.describe,
        summary=continual.summary,
        describe=continual.describe,
        planned=continual.planned,
    )


def _quadmix() -> Method:
    from cuvee.methods import planning, quadmix, quadmix_report

    return Method(
        load=quadmix.load_config,
        run=quadmix_report.run,
        steps=quadmix_report.STEPS,
        dry_run=quadmix_report.dry_run,
        describe_plan=planning.describe,
        summary=quadmix_report.summary,
        describe=quadmix_report.describe,
        planned=lambda settings, job: quadmix.study(settings, job).planned(),
    )


def _quad() -> Method:
    from cuvee.methods import planning, quad, quad_report

    return Method(
        load=quad.load_config,
        run=quad_report.run,
        steps=quad_report.STEPS,
        dry_run=quad_report.dry_run,
        describe_plan=planning.describe,
        summary=quad_report.summary,
        describe=quad_report.describe,
    )


METHODS: Mapping[str, Callable[[], Method]] = {
    "regmix": _regmix,
    "mixing-laws": _mixing_laws,
    "continual": _continual,
    "quadmix": _quadmix,
    "quad": _quad,
}


def method_named(name: str) -> Method:
    """Look up a method.

    Raises:
        ConfigError: No such method.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} is unknown; allowed: {', '.join(METHODS)}.")
    return METHODS[name]()
