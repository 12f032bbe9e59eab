"""`uertool dedupe`: near-duplicates of lines, of which one is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

from uertool.cli import console
from uertool.cli.commands.search import Encoder
from uertool.cli.console import counted
from uertool.cli.options import OutputSettings, with_settings
from uertool.errors import UsageError
from uertool.io.json_text import json_text
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.tasks.search.settings import CorpusSettings, DedupeSettings, SentenceSettings


@with_settings
def dedupe(
    *,
    settings: DedupeSettings,
    corpus: CorpusSettings,
    features: SentenceSettings,
    model: ModelSettings,
    device: DeviceSettings,
    output: OutputSettings,
) -> None:
    """Leave out lines that are duplicates or near-duplicates of others.

        uertool dedupe -i lines.txt --threshold 0.98 -o kept.txt --groups groups.jsonl

        uertool dedupe -i lines.txt --only-exact -o kept.txt

    Lines are taken in their order (--keep first), or the longest first. A line is left out if it
    is equal to an earlier one, or if the cosine of its vector with that of a line that was kept
    before is at least --threshold. Kept lines are written as they are, in their order.
    """
    output.apply()
    _check(settings, corpus, output)
    encoder = Encoder(model, device, features, corpus.load_whitening)

    import numpy as np

    from uertool.io.atomic import atomic_text
    from uertool.tasks.search import dedupe as task
    from uertool.tasks.search.lines import open_lines

    with tempfile.TemporaryDirectory(prefix="uertool-") as folder:
        scratch = Path(folder)
        lines = open_lines(corpus, scratch)
        found = task.dedupe(
            lines,
            settings,
            corpus,
            lambda: encoder.job,
            scratch,
            device=encoder.compared_on(),
            progress=console.progress,
            overwrite=output.overwrite,
        )
        if found is None:
            console.note(f"wrote {settings.plot}; choose a `threshold` from it")
            return
        if settings.groups is not None:
            with atomic_text(settings.groups, overwrite=output.overwrite) as stream:
                for row, others in found.groups():
                    stream.write(json_text(task.group_record(lines, found, row, others)) + "\n")
        with output.opened() as stream:
            if lines.header is not None:
                stream.write(lines.header + "\n")
            for row in np.flatnonzero(found.are_kept).tolist():
                stream.write(lines.whole(row) + "\n")
    figures = found.figures()
    _report(figures, output)
    inputs = [*model.files(), *corpus.files()]
    output.record(output.prediction_path, inputs, results=figures)


def _check(settings: DedupeSettings, corpus: CorpusSettings, output: OutputSettings) -> None:
    """Refuse invalid settings before anything is loaded."""
    from uertool.engine.ordering import refuse_same
    from uertool.io.atomic import refuse_existing
    from uertool.tasks.search.dedupe import check_settings

    if corpus.test_path is None:
        raise UsageError("There are no lines.", "Name a file with `test_path`.")
    for path in (output.prediction_path, settings.groups):
        if path is not None:
            refuse_same(corpus.test_path, str(path))
            refuse_existing(path, output.overwrite)
    if output.json and not output.to_file:
        raise UsageError("`json` and the kept lines cannot both go to standard output.")
    check_settings(settings, corpus)
    if settings.plot is not None:
        from uertool.tasks.pictures import require_drawing

        require_drawing(settings.plot, overwrite=output.overwrite)


def _report(figures: dict[str, int], output: OutputSettings) -> None:
    if output.json:
        console.json_line(figures)
    lines, kept = figures["lines"], figures["kept"]
    where = f" in {output.prediction_path}" if output.to_file else ""
    console.note(
        f"{counted(lines, 'line')}: {kept:,} kept{where} ({kept / lines:.1%}), "
        f"{figures['equal']:,} equal to another, {counted(figures['near'], 'near-duplicate')}; "
        f"{counted(figures['groups'], 'group')}, the largest of {figures['largest_group']:,}"
    )
