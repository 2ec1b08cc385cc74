"""Scene samples as they are made: of a moment's arrays and one camera's picture. What is in them says `scene3d.py`.

The arrays of a moment are those of a scene of nuScenes (`visloom/data/nuscenes/tables.py`): boxes in the world, by
moment. Whatever data set boxes come from, a camera sees them by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visloom.data.scene3d import seen_boxes, uncovered
from visloom.data.space import inverse, move, rotation_matrix, wrap
from visloom.data.truth import Truth, WorldBoxes
from visloom.sample import Sample

Array = NDArray[Any]


def scene_sample(
    scene: Mapping[str, Any],
    moment: int,
    *,
    name: str,
    image: Array,
    lens: Array,
    pose: Array,
    radar: Array,
    camera: str,
    notes: tuple[str, ...] = (),
    drop: bool = True,
    annotated: bool = True,
    **extra: Any,
) -> Sample:
    """One picture of a moment, with the boxes that its camera sees and the truth about the moment.

    Args:
        scene: "token" and "origin" by moment, and boxes in the world: "box_moment", "box_label", "box_center" ...
        name: the sample's id.  image: (H, W, 3) uint8.  lens: (3, 4) metres to pixels.  pose: (4, 4) camera to world.
        radar: (R, 5 or more) in the camera's frame.
        drop: leave out boxes that a nearer one covers.
        annotated: whether somebody has looked what is there; without, the sample has no truth.
        extra: more of `Sample.extra`.
    """
    return joined(
        seen_by(scene, moment, pose, lens, image.shape[:2], drop=drop),
        name=name,
        image=image,
        lens=lens,
        pose=pose,
        radar=radar,
        camera=camera,
        notes=notes,
        token=str(scene["token"][moment]),
        truth=truth_of(scene, moment) if annotated else None,
        **extra,
    )


def joined(
    boxes: Mapping[str, Array],
    *,
    name: str,
    image: Array,
    lens: Array,
    notes: tuple[str, ...] = (),
    **extra: Any,
) -> Sample:
    """The sample of a picture and what its camera sees: "boxes", "labels", and "box_..." for `Sample.extra`."""
    rest = {key: value for key, value in boxes.items() if key.startswith("box_")}
    known = {"lens": lens, "picture": image.shape[:2], "mirrored": False}
    return Sample(
        id=name,
        image=image,
        boxes=boxes["boxes"].astype(np.float32),
        labels=boxes["labels"],
        calib=lens,
        notes=notes,
        extra={**known, **extra, **rest},
    )


def seen_by(
    scene: Mapping[str, Any], moment: int, pose: Array, lens: Array, size: tuple[int, int], *, drop: bool
) -> dict[str, Array]:
    """The boxes that a camera sees, in its frame: "boxes", "labels" and the "box_..." fields of a scene sample."""
    rows = np.flatnonzero((scene["box_moment"] == moment) & (scene["box_label"] >= 0))
    back = inverse(pose)
    center = move(back, scene["box_center"][rows])
    dims = scene["box_size"][rows][:, [2, 0, 1]]
    front = rotation_matrix(scene["box_rotation"][rows])[..., 0] @ back[:3, :3].T
    yaw = -np.arctan2(front[:, 2], front[:, 0])
    boxes, shown = seen_boxes(lens, size, center, dims, yaw)
    kept = np.flatnonzero(shown)
    if drop and len(kept):
        kept = kept[uncovered(boxes[kept], center[kept, 2], dims[kept])]
    middle = (boxes[kept, 0] + boxes[kept, 2]) / 2
    return {
        "boxes": boxes[kept],
        "labels": scene["box_label"][rows[kept]].astype(np.int64),
        "box_center": center[kept],
        "box_dims": dims[kept],
        "box_yaw": yaw[kept],
        "box_velocity": scene["box_velocity"][rows[kept]] @ back[:3, :3].T,
        "box_attribute": scene["box_attribute"][rows[kept]].astype(np.int64),
        "box_alpha": wrap(yaw[kept] - np.arctan2(middle - lens[0, 2], lens[0, 0])),
    }


def truth_of(scene: Mapping[str, Any], moment: int) -> Truth:
    """What is annotated at a moment."""
    at = scene["box_moment"] == moment

    def pick(which: Array) -> WorldBoxes:
        rows = np.flatnonzero(at & which)
        return WorldBoxes(
            label=scene["box_label"][rows],
            center=scene["box_center"][rows],
            size=scene["box_size"][rows],
            rotation=scene["box_rotation"][rows],
            velocity=scene["box_velocity"][rows][:, :2],
            attribute=scene["box_attribute"][rows],
            score=np.full(len(rows), -1.0),
            points=scene["box_points"][rows],
        )

    known = scene["box_label"] >= 0
    return Truth(str(scene["token"][moment]), scene["origin"][moment], pick(known), pick(~known))
