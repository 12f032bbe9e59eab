"""`uertool check`: what a checkpoint is, whether it is sound and safe, and what it is good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uertool.cli import console
from uertool.cli.options import opt, option_groups
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings

if TYPE_CHECKING:
    from uertool.tasks.check.inspection import Inspection
    from uertool.tasks.check.repair import CleanReport
    from uertool.tasks.check.tensor_health import TensorDifference

_BESIDE = "Files that should fit"
_COPIES = "Copies"


@option_groups
def check(
    device: DeviceSettings,
    model: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="A weight file, folder or TensorFlow prefix."),
    ] = None,
    load_model_path: Annotated[
        str | None, opt("--load-model-path", "--model", "-m", help="The same as FILE")
    ] = None,
    vocab_path: Annotated[
        Path | None, opt("--vocab-path", help="Compare this vocabulary", panel=_BESIDE)
    ] = None,
    config_path: Annotated[
        Path | None, opt("--config-path", help="Compare this configuration", panel=_BESIDE)
    ] = None,
    spm_model_path: Annotated[
        Path | None, opt("--spm-model-path", help="Compare this sentencepiece model", panel=_BESIDE)
    ] = None,
    tgt_vocab_path: Annotated[
        Path | None,
        opt("--tgt-vocab-path", help="Compare this vocabulary of a decoder", panel=_BESIDE),
    ] = None,
    run: Annotated[bool, opt("--run", help="Load the model and run one forward pass")] = False,
    fast: Annotated[bool, opt("--fast", help="Do not read the numbers (NaN, checksums)")] = False,
    compare: Annotated[
        str | None,
        opt(
            "--compare", help="Show which tensors differ from another checkpoint's", metavar="FILE"
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        opt(
            "--fix",
            help="Write a clean copy: no `module.`, modular names (.bin or .safetensors)",
            panel=_COPIES,
            metavar="OUT",
        ),
    ] = None,
    to_safetensors: Annotated[
        Path | None,
        opt(
            "--to-safetensors",
            help="Write the tensors under their own names as .safetensors",
            panel=_COPIES,
            metavar="OUT",
        ),
    ] = None,
    overwrite: Annotated[
        bool, opt("--overwrite", help="Replace existing copies", panel=_COPIES)
    ] = False,
    json: Annotated[bool, opt("--json", help="Everything as one line of JSON")] = False,
    quiet: Annotated[bool, opt("--quiet", "-q", help="Nothing but the problems")] = False,
) -> None:
    """Check a checkpoint: what it is, what is wrong with it, and what it can be used for.

    Ends with 0 if all is well and with 1 if there are problems, or if --compare finds differences.
    A pickle is never executed.
    """
    console.set_level(quiet=quiet)
    path = local_path(_one(model, load_model_path))
    if device.threads is not None:
        from uertool.loading.device import set_threads

        set_threads(device.threads)
    if compare is not None:
        raise typer.Exit(_compare(path, local_path(compare), as_json=json))

    from uertool.tasks.check import inspection, repair
    from uertool.tasks.check import record as inspection_record

    with console.tensor_progress("Reading the numbers") as progress:
        result = inspection.inspect_checkpoint(
            path,
            vocab_path=vocab_path,
            config_path=config_path,
            spm_model_path=spm_model_path,
            tgt_vocab_path=tgt_vocab_path,
            numbers=not fast,
            progress=progress,
        )
    if run and result.architecture_known:
        inspection.run_once(result, device=device.device, dtype=device.dtype, config=config_path)
    if json:
        console.json_line(inspection_record.as_json(result))
    else:
        _show(result, quiet=quiet)
    if fix is not None:
        _say(repair.write_clean(path, fix, overwrite=overwrite), as_json=json)
    if to_safetensors is not None:
        _say(repair.to_safetensors(path, to_safetensors, overwrite=overwrite), as_json=json)
    raise typer.Exit(0 if result.good else 1)


def _one(argument: str | None, option: str | None) -> str:
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"Two checkpoints were named, {argument} and {option}.")
    path = argument or option
    if path is None:
        raise UsageError("No checkpoint was named.", "Name one with --load_model_path.")
    return path


def local_path(reference: str) -> str:
    """Where a bundled model or one of the hub lies; a path stays what it is, there or not."""
    from uertool.bundled import bundled_models
    from uertool.loading import hub
    from uertool.loading.registry import find_model

    bundled = reference in bundled_models() and not Path(reference).exists()
    return str(find_model(reference)) if bundled or hub.is_hub_reference(reference) else reference


def _show(result: Inspection, *, quiet: bool) -> None:
    """The inspection as tables; problems come last, where they are seen."""
    if not quiet and result.format:
        console.table(("", str(result.path)), _facts(result))
        if result.parts:
            console.table(
                ("part", "tensors", "parameters", "MB"),
                [
                    (p.name, str(p.tensors), f"{p.parameters:,}", f"{p.bytes / 1e6:.1f}")
                    for p in result.parts
                ],
            )
        if result.settings:
            _show_settings(result)
        if result.services:
            console.table(
                ("command", "possible", "lacks"),
                [(s.command, "yes" if s.possible else "no", s.lacks) for s in result.services],
            )
    if not quiet:
        _show_security(result)
        for finding in result.findings:
            if finding.kind == "note":
                console.out(f"note: {finding.what}")
                if finding.hint:
                    console.out(f"      {console.spell(finding.hint)}")
    for finding in result.problems:
        console.out(f"PROBLEM: {finding.what}")
        if finding.hint:
            console.out(f"         {console.spell(finding.hint)}")
    if not quiet and result.good:
        console.out("No problems found.")


def _facts(result: Inspection) -> list[tuple[str, str]]:
    whose = {"uer": "UER-py", "hf": "Hugging Face", "tf": "Google (TensorFlow)"}
    facts = [
        ("format", result.format),
        ("names", " ".join(filter(None, (whose.get(result.layout), result.generation)))),
        ("architecture", result.architecture or ", ".join(result.candidates)),
        ("heads", ", ".join(result.heads)),
        ("multi-GPU names", "yes" if result.multi_gpu else "no"),
        ("tensors", str(result.tensors)),
        ("parameters", f"{result.parameters:,}"),
        ("size", f"{result.bytes / 1e6:.1f} MB"),
        ("number types", ", ".join(f"{name} ({n})" for name, n in result.dtypes.items())),
    ]
    if result.run is not None:
        run = result.run
        facts.append(("forward pass", f"{run.device}, {run.dtype}, {run.run_seconds:.2f} s"))
        shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in run.outputs.items()]
        facts.append(("gives", ", ".join(shapes)))
    return [(name, value) for name, value in facts if value]


def _show_settings(result: Inspection) -> None:
    learned = [setting for setting in result.settings if setting.source != "default"]
    console.table(
        ("setting", "value", "from"),
        [
            (
                setting.name,
                " ".join(setting.value) if isinstance(setting.value, tuple) else str(setting.value),
                f"{setting.source}: {setting.how}" if setting.how else setting.source,
            )
            for setting in learned
        ],
    )
    if len(learned) < len(result.settings):
        console.out(f"{len(result.settings) - len(learned)} more settings have their defaults.")


def _show_security(result: Inspection) -> None:
    rows = [
        (report.path.name, use.name, use.verdict.value, "called" if use.called else "named")
        for report in result.security
        for use in report.globals
    ]
    if rows:
        console.table(("pickle in", "would import", "which", ""), rows)


def _say(report: CleanReport, *, as_json: bool) -> None:
    for path in report.written:
        if as_json:
            console.json_line({"written": str(path), "tensors": report.tensors})
        elif not console.is_quiet():
            console.out(f"wrote {path}: {report.tensors} tensors, {report.renamed} renamed")


def _compare(path: str, other: str, *, as_json: bool) -> int:
    """Show the differences; 0 if there are none."""
    from uertool.tasks.check import inspection, tensor_health

    first, second, by_meaning = inspection.open_alike(path, other)
    with first, second, console.tensor_progress("Comparing") as progress:
        found = list(tensor_health.compare(first, second, progress=progress))
    differing = [item for item in found if item.status != "equal"]
    counts = tensor_health.summary(found)
    if as_json:
        console.json_line(
            {
                "equal": not differing,
                "counts": counts,
                "by_meaning": by_meaning,
                "tensors": [vars(item) for item in differing],
            }
        )
    else:
        if by_meaning:
            console.note("The names differ in generation, so tensors are compared by meaning.")
        if differing:
            console.table(
                ("tensor", "what", "largest", "mean", "cosine", "first", "second"),
                [_row(item) for item in differing],
            )
        console.out(", ".join(f"{count} {status}" for status, count in counts.items()))
    return 1 if differing else 0


def _row(item: TensorDifference) -> tuple[str, ...]:
    measured = item.status in ("differs", "type")
    figures = (
        (f"{item.largest:.3g}", f"{item.mean:.3g}", f"{item.cosine:.6f}")
        if measured
        else ("", "", "")
    )
    return (item.name, item.status, *figures, item.first or "", item.second or "")
