"""Answering: a trained task on a folder of scenes: all cameras of a moment together.

`visloom predict RUN FOLDER` comes here: a picture alone has no calibration and no radar, so what is named is a data set
(`visloom/data/scene3d.py`). Every moment becomes a row, a picture (`panorama.py`) and an entry of results.json, which
is a nuScenes submission.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from visloom.data.layout import recognise
from visloom.data.scene3d import SceneSource
from visloom.data.space import heading
from visloom.data.truth import WorldBoxes
from visloom.errors import ConfigError, DataError, VisloomError
from visloom.evaluation import evaluating
from visloom.loader import collated
from visloom.place import one_of
from visloom.prediction import Answer
from visloom.stream import Ordered, applied, rooted, subkey
from visloom.tasks.fusion3d.panorama import panorama
from visloom.tasks.fusion3d.world import COLUMNS, Results, join_cameras, to_world

if TYPE_CHECKING:
    from PIL.Image import Image

    from visloom.sample import Sample
    from visloom.saved import Saved
    from visloom.tasks.fusion3d.spec import Fusion3d

_READERS = 4
_AHEAD = 3  # batches of pictures that are read ahead


@dataclass
class _View:
    """One camera of a moment: the sample as stored, as the network sees it, and what was found."""

    token: str
    stored: Sample | None = None
    seen: Sample | None = None
    row: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def answers(
    spec: Fusion3d, saved: Saved, places: Sequence[str | Path], *, part: str | None, out: Path | None
) -> tuple[int, Iterator[Answer]]:
    """Predict the moments of a data set: how many pictures there are, and the answers, one a moment.

    Args:
        places: one folder, or the name of an evaluation of the run, which takes that evaluation's own data.
        part: a split, a scene, or "all"; None takes what is there to validate on.
        out: folder that results.json is written into when all moments are done.
    Raises:
        ConfigError: several places.
        DataError: the folder holds no scenes, or not this part of them.
    """
    if len(places) != 1:
        raise ConfigError(f"3D detection answers for one data set at a time, got {len(places)} places")
    stream = _stream(spec, saved, str(places[0]), part)
    return len(stream.source), _answers(spec, saved, stream, out)


def _stream(spec: Fusion3d, saved: Saved, place: str, part: str | None) -> Ordered:
    """What is to be predicted, under the transforms of the run's first evaluation (or the one that was named)."""
    evals = saved.run.evals
    chosen = evals.get(place) or next(iter(evals.values()), None)
    leaf = chosen.stream.leaves()[0] if chosen is not None else None
    transform = leaf.transform if leaf is not None else ()
    batch = min(64, chosen.stream.batch) if chosen is not None else 6
    if place in evals and not Path(place).exists():
        assert leaf is not None
        source: Any = rooted(leaf.source, Path(saved.run.host.data))
        if part is not None:
            source = source.elsewhere(source.root, part)
        return Ordered(source=source, batch=batch, transform=transform)
    folder = Path(place)
    layout = recognise(folder) if folder.is_dir() else None
    found: Any = layout.parts.get("val", layout.parts["train"]) if layout is not None else None
    if not isinstance(found, SceneSource):
        what = f"{place}: no such folder" if not folder.exists() else f"{place} holds no scenes"
        named = f"; or the run's own data: {one_of(evals, 'or')}" if evals else ""
        raise DataError(
            f"{what}: 3D detection needs cameras with their calibration{' and radar' if spec.radar else ''}. Name a "
            f"data root of nuScenes, or a folder with scenes.json (docs/scenes.md){named}"
        )
    own: Any = leaf.source if leaf is not None else None
    if type(own) is type(found) and isinstance(
        own, SceneSource
    ):  # with the run's own settings: cameras, sweeps
        found = own.elsewhere(str(folder), part if part is not None else _either(own, found, folder))
    else:
        found = found.elsewhere(str(folder), part if part is not None else found.part_name)
    return Ordered(source=found, batch=batch, transform=transform)


def _either(own: SceneSource, found: SceneSource, folder: Path) -> str:
    """The part that the run evaluates on, if the folder has it; else what was found there."""
    try:
        len(own.elsewhere(str(folder), own.part_name))
    except DataError:
        return found.part_name
    return own.part_name


def _answers(spec: Fusion3d, saved: Saved, stream: Ordered, out: Path | None) -> Iterator[Answer]:
    with closing(Results(out, spec)) as results:
        for views in _predicted(spec, saved, stream):
            good = [view for view in views if not view.error]
            boxes = join_cameras(
                [_to_world(spec, view.row) for view in good],
                most=spec.rules.most,
                merge=spec.merge and not spec.compat.duplicates,
            )
            token = views[0].token
            failed = [view.error for view in views if view.error]
            error = f"{len(failed)} of {len(views)} cameras: {'; '.join(failed)}" if failed else ""
            if good:
                results.add(token, boxes)
            stored = [view.stored for view in good if view.stored is not None]
            yield Answer(
                name=token,
                count=len(views),
                lines=_lines(spec, boxes) if good else [],
                error=error,
                draw=partial(panorama, spec, stored, boxes, title=token) if good else None,
            )
        results.keep()


def _predicted(spec: Fusion3d, saved: Saved, stream: Ordered) -> Iterator[list[_View]]:
    """The views of each moment, predicted: those of several moments together, as many as fill a batch."""
    waiting: list[list[_View]] = []
    for _, group in groupby(_read(stream), key=lambda view: view.token):
        waiting.append(list(group))
        if sum(map(len, waiting)) >= stream.batch:
            _predict(spec, saved, [view for views in waiting for view in views], stream.batch)
            yield from waiting
            waiting = []
    _predict(spec, saved, [view for views in waiting for view in views], stream.batch)
    yield from waiting


def _read(stream: Ordered) -> Iterator[_View]:
    """Read and transform in threads, some ahead, in order."""
    pool = ThreadPoolExecutor(_READERS)
    numbers = iter(range(len(stream.source)))
    ahead: list[Future[_View]] = []
    try:
        while True:
            for number in islice(numbers, max(12, _AHEAD * stream.batch) - len(ahead)):
                ahead.append(pool.submit(_view, stream, number))
            if not ahead:
                return
            yield ahead.pop(0).result()
    finally:
        pool.shutdown(cancel_futures=True)


def _view(stream: Ordered, number: int) -> _View:
    """Read one camera's picture, and make of it what the network sees."""
    step, place = divmod(number, stream.batch)
    key = stream.tickets(step)[place].key
    source = cast("SceneSource", stream.source)
    view = _View(source.token_of(number))
    try:
        view.stored = sample = source.read(number)
        for position, transform in enumerate(stream.transform):
            sample = applied(transform, sample, subkey(key, position))
        view.seen = sample.resolve()
    except VisloomError as error:
        view.error = str(error)
    return view


def _predict(spec: Fusion3d, saved: Saved, views: list[_View], batch: int) -> None:
    """Predict views; what the network refuses is the error of those views."""
    good = [view for view in views if view.seen is not None and not view.error]
    for start in range(0, len(good), batch):
        some = good[start : start + batch]
        try:
            made = collated(spec, [view.seen for view in some if view.seen is not None], None)
            with evaluating(saved.task), saved.autocast():
                columns = saved.task.predict(made.to(saved.device))
        except VisloomError as error:
            for view in some:
                view.error = str(error)
            continue
        host = {name: columns[name].detach().cpu().double().numpy() for name in (*COLUMNS, "pose")}
        for place, view in enumerate(some):
            view.row = {name: values[place] for name, values in host.items()}


def _to_world(spec: Fusion3d, row: Mapping[str, Any]) -> WorldBoxes:
    return to_world(row, row["pose"], lifted=spec.compat.lifted, tipped=spec.compat.tipped)


def _lines(spec: Fusion3d, boxes: WorldBoxes) -> list[list[Any]]:
    """Lines of the table: the boxes that are also drawn."""
    boxes = boxes.pick(boxes.score >= spec.shown)
    turns = heading(boxes.rotation) if len(boxes) else np.zeros(0)
    return [
        [
            spec.classes[int(boxes.label[i])], float(boxes.score[i]), *boxes.center[i].tolist(),
            *boxes.size[i][[1, 0, 2]].tolist(), float(turns[i]), *boxes.velocity[i].tolist(),
            spec.attributes[int(boxes.attribute[i])] if boxes.attribute[i] >= 0 else "",
        ]
        for i in range(len(boxes))
    ]  # fmt: skip


# ------------------------------------------------------------------------------------- moments of an evaluation


def moment_at(stream: Ordered, position: int) -> range:
    """Positions around one that show the same moment; the cameras of a moment follow each other."""
    source = stream.source
    if not isinstance(source, SceneSource):
        return range(position, position + 1)
    token, first, end = source.token_of(position), position, position + 1
    while first > 0 and source.token_of(first - 1) == token:
        first -= 1
    while end < len(source) and source.token_of(end) == token:
        end += 1
    return range(first, end)


def drawn_moment(
    spec: Fusion3d, samples: Sequence[Sample], predictions: Sequence[Mapping[str, Any]]
) -> Image:
    """The panorama of a moment, with the annotated boxes that a sensor saw."""
    rows = [
        {name: np.asarray(row[name], np.float64) for name in (*COLUMNS, "pose")} for row in predictions
    ]  # fmt: skip
    boxes = join_cameras(
        [_to_world(spec, row) for row in rows],
        most=spec.rules.most,
        merge=spec.merge and not spec.compat.duplicates,
    )
    truth = samples[0].extra.get("truth")
    seen = None if truth is None else truth.boxes.pick(truth.boxes.points != 0)
    return panorama(spec, samples, boxes, seen, title=str(samples[0].extra["token"]))
