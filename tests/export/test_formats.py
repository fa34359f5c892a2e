"""What every format has in common: an epoch is the selection, exactly, and lineage names it."""

from typing import Any

import pyarrow.parquet as pq
import pytest

from cuvee.export.exported import Exported
from cuvee.export.formats import EXPORTERS

FORMATS = list(EXPORTERS)
EACH = [(name, layout) for name, one in EXPORTERS.items() for layout in one.layouts]


@pytest.mark.parametrize(("to", "layout"), EACH)
def test_an_epoch_holds_what_mixture_json_counts(
    to: str, layout: str, made: Any, export: Any, check_epoch: Any
) -> None:
    """Read as the trainer reads, every domain has its realised tokens, document by document."""
    folder = export(to, layout=layout)
    check_epoch(made, folder, to)
    exported = Exported.read(folder)
    assert dict(zip(exported.domains, exported.realised_tokens.tolist(), strict=True)) == (
        made.realised
    )
    planned = {name: one["planned_share"] for name, one in made.mixture["domains"].items()}
    for name, one in exported.to_json()["domains"].items():  # type: ignore[union-attr]
        assert one["realised_minus_planned"] == pytest.approx(
            made.realised[name] / sum(made.realised.values()) - planned[name]
        )


@pytest.mark.parametrize("to", FORMATS)
def test_lineage_names_every_copy_once(to: str, made: Any, export: Any) -> None:
    """Each row of the selection has one line, whose file exists; rows of a file are not shared."""
    folder = export(to)
    lines = pq.read_table(folder / "lineage.parquet").to_pylist()
    found = sorted((line["id"], line["copy"], line["domain"]) for line in lines)
    assert found == sorted((row["id"], row["copy"], row["domain"]) for row in made.rows)
    assert all((folder / line["file"]).is_file() for line in lines)
    if to not in ("mds", "litdata"):
        assert len({(line["file"], line["row"]) for line in lines}) == len(lines)
    pool = pq.read_table(folder / "pool_lineage.parquet").to_pylist()
    assert {line["id"] for line in lines} == {line["id"] for line in pool}
