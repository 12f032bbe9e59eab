"""The settings of `whiten fit` and `whiten apply` as orders for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uertool.engine.inputs.sources import Reading
from uertool.engine.order import Order
from uertool.engine.ordering import check_engine, new_order
from uertool.engine.settings import EngineSettings
from uertool.errors import UsageError
from uertool.io.atomic import sha256_of
from uertool.io.vector_writer import check_output
from uertool.tasks.features.settings import ApplySettings, FitSettings
from uertool.tasks.features.whitening import Whitening, check_path
from uertool.tasks.features.whitening_work import ApplyWork, MomentsWork


def fit_order(
    files: Sequence[str], settings: FitSettings, engine: EngineSettings, *, overwrite: bool = False
) -> Order:
    """The order to fit a whitening on the vectors of files.

    Raises:
        UsageError: there is no output, or settings do not fit together.
    """
    check_engine(engine)
    if settings.save_whitening is None:
        raise UsageError("There is no output.", "Name a file with `save_whitening`.")
    if engine.shard_lines is not None:
        raise UsageError("`shard_lines` has no meaning here: a file is a block.")
    check_path(settings.save_whitening)
    return new_order(
        engine,
        work=MomentsWork(whitening_size=settings.whitening_size),
        inputs=files,
        output=str(settings.save_whitening),
        identity={name: getattr(settings, name) for name in ("whitening_size", "beta", "gamma")},
        reading=Reading(whole=True),
        overwrite=overwrite,
        joins=False,
    )


def apply_order(
    files: Sequence[str],
    settings: ApplySettings,
    engine: EngineSettings,
    *,
    overwrite: bool = False,
) -> tuple[Order, Whitening]:
    """The order to whiten the vectors of files, and the whitening.

    Raises:
        UsageError: the whitening or the output is not named.
        InputError: the whitening cannot be read.
    """
    check_engine(engine)
    target = settings.prediction_path
    if settings.load_whitening is None:
        raise UsageError("No whitening was named.", "Name one with `load_whitening`.")
    if target is None:
        raise UsageError("There is no output.", "Name a file with `prediction_path`.")
    check_output(target.rstrip("/"), settings.precision)
    whitening = Whitening.load(settings.load_whitening).cut(settings.whitening_size)
    on_ray = engine.engine == "ray"
    order = new_order(
        engine,
        work=ApplyWork(
            suffix=".jsonl" if target == "-" else Path(target.rstrip("/")).suffix.lower(),
            whitening=whitening,
            normalize=settings.normalize,
            precision=settings.precision,
            sums=not on_ray,
        ),
        inputs=files,
        output=target,
        identity={
            "whitening": sha256_of(settings.load_whitening),
            "size": settings.whitening_size,
            "normalize": settings.normalize,
            "precision": settings.precision,
        },
        reading=Reading(whole=True),
        overwrite=overwrite,
        in_shards=on_ray,
    )
    return order, whitening
