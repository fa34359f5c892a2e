"""How domains become sets of files: names, phases, zero and tiny weights, too few tokens."""

import json
from typing import Any

import pytest

from cuvee.errors import ConfigError, InfeasibleError
from cuvee.export.exported import Exported
from cuvee.export.exporter import ExportConfig
from cuvee.export.formats import EXPORTERS

FORMATS = list(EXPORTERS)
TOKENS = [name for name, one in EXPORTERS.items() if one.content == "tokens"]


def test_an_unknown_format_and_layout_are_refused(export: Any) -> None:
    """One message says what there is."""
    with pytest.raises(ConfigError, match="no format 'webdataset'; --to takes one of megatron, "):
        export("webdataset")
    with pytest.raises(ConfigError, match="layout is 'rows'; it is one of domains, mixed"):
        export("olmo", layout="rows")


@pytest.mark.parametrize("to", TOKENS)
def test_too_few_tokens_are_refused(to: str, export: Any) -> None:
    """A selection shorter than one sequence of the trainer is no export."""
    with pytest.raises(InfeasibleError, match="Lower --context, or select more tokens"):
        export(to, context=1_000_000)


@pytest.mark.parametrize("to", FORMATS)
def test_domain_names_stay_inside_the_folder(to: str, made: Any, export: Any) -> None:
    """Names with dots, slashes and spaces become safe ones, and the mapping keeps the names."""
    folder = export(to, layout="domains")
    below = [path.relative_to(folder / "data").parts[0] for path in (folder / "data").rglob("*")]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzLO0123456789_-.") for name in below)
    assert not any(name.startswith((".", "-")) for name in below)
    sets = json.loads((folder / "domains.json").read_text())["sets"]
    named = sorted(name for one in sets.values() for name in one["domains"])
    assert named == sorted(made.realised)


@pytest.mark.parametrize("to", FORMATS)
def test_phases_are_sets_of_their_own(to: str, select: Any, export: Any) -> None:
    """Each phase has its own configuration; together they hold every domain's tokens."""
    run = select((0.5, 0.2, 0.2, 0.1), (0.0, 0.3, 0.3, 0.4))
    folder = export(to, run=run, layout="domains", batch_tokens=100)
    exported = Exported.read(folder)
    assert {one.phase for one in exported.sets} == {0, 1}
    assert all(one.name.startswith(f"phase-{one.phase + 1}-") for one in exported.sets)
    assert exported.realised_tokens.tolist() == list(run.realised.values())
    only_first = [one.phase for one in exported.sets if 0 in one.domains]
    assert only_first == [0]
    configured = [path.name for path in folder.iterdir() if "phase-2" in path.name]
    assert configured or to == "nanotron"


@pytest.mark.parametrize("to", FORMATS)
def test_zero_and_tiny_weights_are_stated(
    to: str, select: Any, export: Any, check_epoch: Any
) -> None:
    """A domain of no weight is left out, tiny ones share a set, and both are said."""
    run = select((0.0, 1e-4, 2e-4, 1 - 3e-4))
    folder = export(to, run=run, layout="domains", context=100)
    check_epoch(run, folder, to)
    exported = Exported.read(folder)
    assert any("left out: '../../etc'" in note for note in exported.notes)
    if EXPORTERS[to].smallest(ExportConfig(to=to, context=100)) > 1:
        assert [one.name for one in exported.sets][-1] == "merged" or len(exported.sets) == 1
        assert any(note.startswith("merged into one set") for note in exported.notes)
        assert all(one.n_tokens >= 100 for one in exported.sets)
