"""What `--engine ray` makes of each command: its work, where it writes, what it says at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from uertool.cli import console
from uertool.cli.engine_options import (
    absolute_model,
    inputs_for,
    model_identity,
    order_for,
    refuse_on_ray,
)
from uertool.cli.engine_run import report, run_order, show_plan, watching
from uertool.cli.options import OutputSettings
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    import torch

    from uertool.cli.generate_run import Run
    from uertool.engine.run import Order
    from uertool.engine.work import Work
    from uertool.tasks.cloze.job import ClozeJob, ClozeSettings, ClozeSummary
    from uertool.tasks.features.files import OutputPlan
    from uertool.tasks.features.job import FeatureJob, FeatureSettings
    from uertool.tasks.features.whitening import Whitening
    from uertool.tasks.features.whitening_files import WhiteningReport
    from uertool.tasks.generation.job import Generator
    from uertool.tasks.generation.settings import Form, LmModel
    from uertool.tasks.vocab.counting import Counting, Tally


@dataclass(frozen=True)
class Call:
    """The options of a command that reads lines and runs a model on them."""

    engine: EngineSettings
    model: ModelSettings
    text: InputSettings
    device: DeviceSettings
    output: OutputSettings
    texts: Sequence[str] | None

    def target(self) -> str:
        """The folder for shards, whose name ends as the name of the one file would.

        Raises:
            UsageError: there is none, or an option means nothing here.
        """
        console.set_level(quiet=self.output.quiet, verbose=self.output.verbose)
        refuse_on_ray(save_run=self.output.save_run)
        if self.output.prediction_path in (None, "-"):
            raise UsageError(
                "--engine ray writes a folder of shards.",
                "Name it with --prediction-path; its ending says the format, as that of a file.",
            )
        return str(self.output.prediction_path)

    def order(self, work: Work, target: str, identity: Mapping[str, Any]) -> Order:
        """What the engine shall do."""
        return order_for(
            self.engine,
            work,
            inputs=inputs_for(self.text, self.texts),
            output=target,
            identity={
                **model_identity(self.model),
                "dtype": self.device.dtype,
                "seed": self.output.seed,
                **identity,
            },
            text=self.text,
            device=self.device,
            overwrite=self.output.overwrite,
        )

    def run(self, order: Order, what: str, unit: str = "lines") -> dict[str, Any] | None:
        """The manifest of the finished run, or None for a dry run."""
        if self.engine.dry_run:
            show_plan(order, as_json=self.output.json)
            return None
        manifest, rate = run_order(order, what, unit)
        report(manifest, order.output, rate)
        return manifest

    def worker(self) -> tuple[ModelSettings, DeviceSettings]:
        """What a worker loads."""
        here = dataclasses.replace(self.device, threads=None)
        return absolute_model(self.model), here


def _suffix(path: str) -> str:
    return Path(path.rstrip("/")).suffix.lower()


# -- extract-features -----------------------------------------------------------------------------


def features(
    call: Call, settings: FeatureSettings, plan: OutputPlan, heads: tuple[str, ...]
) -> None:
    """Vectors of lines as shards."""
    target = call.target()
    refuse_on_ray(
        row_map=plan.row_map,
        resume=plan.resume,
        whiten=plan.whiten,
        save_whitening=plan.save_whitening,
    )
    if plan.fits:
        raise UsageError(
            "A whitening cannot be fitted in the same run with --engine ray.",
            "Extract, then: uertool whiten fit FOLDER --engine ray, and give --load-whitening.",
        )

    from uertool.io.vector_writer import check_output
    from uertool.tasks.features.whitening import Whitening
    from uertool.tasks.sharded import FeatureWriter, feature_work

    check_output(target.rstrip("/"), plan.precision)
    whitening: Whitening | None = None
    about: dict[str, Any] = {}
    if plan.load_whitening is not None:
        from uertool.io.atomic import sha256_of

        whitening = Whitening.load(plan.load_whitening).cut(plan.whitening_size)
        about = {"whitening": sha256_of(plan.load_whitening), "size": whitening.size}
    writer = FeatureWriter(settings, plan.precision, plan.normalize, whitening)
    make_job = functools.partial(_feature_job, *call.worker(), settings, heads)
    identity = {
        **dataclasses.asdict(settings),
        "precision": plan.precision,
        "normalize": plan.normalize,
        **about,
    }
    work = feature_work(make_job, writer, _suffix(target))
    manifest = call.run(call.order(work, target, identity), "Features")
    if manifest is None:
        return
    counts = manifest["counts"]
    if counts.get("blank"):
        console.note(f"{counts['blank']:,} lines are blank, see --blank")
    if counts.get("cut"):
        console.warn(
            f"{counts['cut']:,} lines are longer than what is read, and cut; see --seq-length"
        )


def _feature_job(
    model: ModelSettings,
    options: DeviceSettings,
    settings: FeatureSettings,
    heads: tuple[str, ...],
    device: torch.device,
) -> FeatureJob:
    from uertool.tasks.features.job import FeatureJob

    here = dataclasses.replace(options, device=str(device))
    from uertool.loading.registry import load_from_settings

    return FeatureJob(load_from_settings(model, here, heads=heads), settings)


# -- cloze ----------------------------------------------------------------------------------------


def cloze(call: Call, settings: ClozeSettings, form: str) -> ClozeSummary | None:
    """Cloze tests as shards; the figures of the run, or None for a dry run."""
    from uertool.engine.work import JobWork
    from uertool.tasks.cloze.job import ClozeSummary

    target = call.target()
    make_job = functools.partial(_cloze_job, *call.worker(), settings)
    work = JobWork(
        "cloze",
        ".jsonl" if form == "jsonl" else _suffix(target) or ".txt",
        make_job,
        ClozeWriter(form, call.text.column),
    )
    plain = dataclasses.asdict(settings)
    plain["rule"]["word_list"] = sorted(settings.rule.word_list)
    manifest = call.run(call.order(work, target, {**plain, "form": form}), "Cloze")
    if manifest is None:
        return None
    counts = manifest["counts"]
    names = [field.name for field in dataclasses.fields(ClozeSummary) if field.name != "unmasked"]
    unmasked = {
        name.removeprefix(_UNMASKED): count
        for name, count in counts.items()
        if name.startswith(_UNMASKED)
    }
    return ClozeSummary(**{name: counts.get(name, 0) for name in names}, unmasked=unmasked)


_UNMASKED = "unmasked."


def _cloze_job(
    model: ModelSettings, options: DeviceSettings, settings: ClozeSettings, device: torch.device
) -> ClozeJob:
    from uertool.tasks.cloze.job import ClozeJob

    here = dataclasses.replace(options, device=str(device))
    from uertool.loading.registry import load_from_settings

    return ClozeJob(load_from_settings(model, here, heads=("mlm",)), settings)


@dataclass(frozen=True)
class ClozeWriter:
    """Opens shards of cloze results."""

    form: str
    column: str | None

    @contextmanager
    def __call__(
        self, path: Path, block: int, job: ClozeJob
    ) -> Iterator[Callable[[list[Any]], Mapping[str, int]]]:
        from uertool.cli.render.cloze import writer_for
        from uertool.tasks.cloze.job import ClozeSummary

        with open(path, "w", encoding="utf-8", newline="\n") as stream:
            one = writer_for(self.form, stream, column=self.column, header=block == 0)

            def write(results: list[Any]) -> Mapping[str, int]:
                summary = ClozeSummary()
                for result in results:
                    summary.add(result)
                    one(result)
                counts: dict[str, Any] = dataclasses.asdict(summary)
                unmasked = counts.pop("unmasked")
                named = {_UNMASKED + name: count for name, count in unmasked.items()}
                return {"rows": len(results), **counts, **named}

            yield write


# -- generate -------------------------------------------------------------------------------------


def generate(call: Call, run: Run) -> dict[str, int] | None:
    """Texts for all lines as shards; the counts of the run, or None for a dry run."""
    from uertool.tasks.sharded_generation import GenerationWork

    target = call.target()
    model, device = call.worker()
    work = GenerationWork(
        f"generate {run.kind}",
        ".jsonl" if run.form == "jsonl" else _suffix(target) or ".txt",
        functools.partial(_generator, run.kind, cast("LmModel", model), device),
        run.decoding,
        TextWriter(run.form, run.raw, run.fill),
    )
    identity = {
        **dataclasses.asdict(run.decoding),
        "form": run.form,
        "raw": run.raw,
        "fill": run.fill,
    }
    manifest = call.run(call.order(work, target, identity), "Generate", "prompts")
    return None if manifest is None else dict(manifest["counts"])


def _generator(
    kind: str, model: LmModel, settings: DeviceSettings, device: torch.device
) -> Generator:
    from uertool.cli.generate_run import load_for

    return load_for(kind, model, dataclasses.replace(settings, device=str(device)))


@dataclass(frozen=True)
class TextWriter:
    """Opens shards of generated texts."""

    form: Form
    raw: bool
    fill: bool

    @contextmanager
    def __call__(
        self, path: Path, block: int, generator: Generator
    ) -> Iterator[Callable[[list[Any]], Mapping[str, int]]]:
        from uertool.cli.render.generation import Writer
        from uertool.tasks.sharded_generation import count_texts

        with open(path, "w", encoding="utf-8", newline="\n") as stream:
            filled = generator.filled if self.fill else None
            one = Writer(self.form, stream, raw=self.raw, fill=filled)
            one.begun = block > 0  # shards that are put together are one text

            def write(results: list[Any]) -> Mapping[str, int]:
                for texts in results:
                    one(texts)
                return count_texts(results)

            yield write


# -- vocab build ----------------------------------------------------------------------------------


def corpus_counter(
    engine: EngineSettings,
    corpora: Sequence[str],
    output: str,
    *,
    overwrite: bool = False,
    as_json: bool = False,
) -> Callable[[Counting], Tally]:
    """What counts a corpus on the cluster, for `build_vocab`."""
    if output == "-":
        raise UsageError(
            "--engine ray keeps its work beside the output.", "Name a file with --output_path."
        )
    return functools.partial(_count, engine, list(corpora), output, overwrite, as_json)


def _count(
    engine: EngineSettings,
    corpora: list[str],
    output: str,
    overwrite: bool,
    as_json: bool,
    counting: Counting,
) -> Tally:
    from uertool.tasks.sharded import TallyWork, count_distributed, shards_folder

    order = order_for(
        engine,
        TallyWork(counting=counting),
        inputs=corpora,
        output=shards_folder(output),
        identity=dataclasses.asdict(counting),
        overwrite=overwrite,
    )
    if engine.dry_run:
        show_plan(order, as_json=as_json)
        raise typer.Exit
    with watching("Counting") as watch:
        tally, errors = count_distributed(order, output, watch)
    _say_errors(errors)
    return tally


def _say_errors(errors: Path | None) -> None:
    if errors is not None:
        console.warn(f"Some of the input could not be read; {errors} tells what.")


# -- whiten fit -----------------------------------------------------------------------------------


def fit_whitening(
    engine: EngineSettings,
    vectors: Sequence[str],
    output: Path,
    size: int | None,
    *,
    about: Mapping[str, str],
    overwrite: bool = False,
    as_json: bool = False,
) -> tuple[Whitening, WhiteningReport]:
    """A whitening of the vectors of many files, each of them read by one worker."""
    from uertool.engine.inputs import Reading
    from uertool.tasks.sharded import MomentsWork, fit_distributed, shards_folder

    refuse_on_ray(shard_lines=engine.shard_lines)  # a block is a file here
    order = order_for(
        engine,
        MomentsWork(),
        inputs=vectors,
        output=shards_folder(output),
        identity={},
        overwrite=overwrite,
    )
    order = dataclasses.replace(order, reading=Reading(whole=True))
    if engine.dry_run:
        show_plan(order, as_json=as_json)
        raise typer.Exit
    with watching("Fitting", "files") as watch:
        whitening, found, errors = fit_distributed(order, output, size, about=about, watch=watch)
    _say_errors(errors)
    return whitening, found
