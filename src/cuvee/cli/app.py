"""The verbs of the command line, gathered."""

import typer

from cuvee.cli import (
    compare,
    copies,
    design,
    duplicates,
    export,
    fit,
    influence,
    ingest,
    overlap,
    predict,
    report,
    run,
    search,
    show,
    stages,
    validate,
    watch,
)

app = typer.Typer(
    name="cuvee",
    help="Decide by experiment what a language model is pre-trained on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

run.register(app)
compare.register(app)
stages.register(app)
design.register(app)
ingest.register(app)
fit.register(app)
search.register(app)
validate.register(app)
predict.register(app)
copies.register(app)
overlap.register(app)
duplicates.register(app)
influence.register(app)
export.register(app)
report.register(app)
show.register(app)
watch.register(app)
