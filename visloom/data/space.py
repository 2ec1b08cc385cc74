"""Space: rotations, boxes and cameras in three dimensions, in numpy.

A camera's frame is x to the right, y down, z ahead, in metres; a vehicle's and the world's are x ahead, y to the left,
z up. A yaw in the camera's frame ("rotation_y") turns about y: 0 looks along x, -pi / 2 ahead. Quaternions are w x y z.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]


def rotation_matrix(quaternion: Array) -> Floats:
    """Rotation matrices of quaternions (..., 4), normalised first: (..., 3, 3)."""
    q = np.asarray(quaternion, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def quaternion(matrix: Array) -> Floats:
    """The quaternion of one rotation matrix (3, 3), with w >= 0: (4,)."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z]) if w >= 0 else -np.array([w, x, y, z])


def multiply(a: Array, b: Array) -> Floats:
    """Products of quaternions: (..., 4)."""
    w, x, y, z = np.moveaxis(np.asarray(a, np.float64), -1, 0)
    p, q, r, s = np.moveaxis(np.asarray(b, np.float64), -1, 0)
    parts = [
        w * p - x * q - y * r - z * s,
        w * q + x * p + y * s - z * r,
        w * r - x * s + y * p + z * q,
        w * s + x * r - y * q + z * p,
    ]
    return np.stack(parts, -1)


def about_z(yaw: Array | float) -> Floats:
    """Quaternions that turn about z, the upright of a vehicle and of the world: (..., 4)."""
    half = np.asarray(yaw, np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], -1)


def heading(quaternions: Array) -> Floats:
    """The direction of a box's front on the ground plane, as an angle about z: (...,) radians."""
    front = rotation_matrix(quaternions)[..., 0]
    return np.arctan2(front[..., 1], front[..., 0])


def transform(rotation: Array, translation: Array) -> Floats:
    """The (4, 4) matrix of a quaternion and a translation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation_matrix(rotation), translation
    return matrix


def inverse(matrix: Array) -> Floats:
    """The inverse of a rigid (4, 4) transform."""
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T
    result[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return result


def move(matrix: Array, points: Array) -> Floats:
    """Points (N, 3) under a (4, 4) transform: (N, 3)."""
    moved: Floats = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def wrap(angle: Array) -> Floats:
    """Angles in [-pi, pi)."""
    return np.asarray((np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi, np.float64)


def project(calib: Array, points: Array) -> Floats:
    """Pixels and depths of points (..., 3) under a (3, 4) projection: (..., 3) u, v, z of the last row."""
    seen = points @ calib[:, :3].T + calib[:, 3]
    z = seen[..., 2:]
    pixels: Floats = np.concatenate([seen[..., :2] / np.where(np.abs(z) < 1e-9, 1e-9, z), z], -1)
    return pixels


def corners(center: Array, dims: Array, yaw: Array) -> Floats:
    """The eight corners of boxes in the camera's frame: (N, 8, 3); the four lower ones first, the front two first.

    center: (N, 3), the middle of a box.  dims: (N, 3) height, width, length.  yaw: (N,).
    """
    height, width, length = np.moveaxis(np.asarray(dims, np.float64), -1, 0)
    x = np.array([1, 1, -1, -1, 1, 1, -1, -1]) / 2 * length[:, None]
    z = np.array([1, -1, -1, 1, 1, -1, -1, 1]) / 2 * width[:, None]
    y = np.array([1, 1, 1, 1, -1, -1, -1, -1]) / 2 * height[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    turned = np.stack([x * cos + z * sin, y, z * cos - x * sin], -1)
    return np.asarray(turned + np.asarray(center)[:, None], np.float64)


def world_corners(center: Array, size: Array, rotation: Array) -> Floats:
    """The eight corners of boxes in the world's frame: (N, 8, 3), in the order of `corners`.

    center: (N, 3), the middle of a box.  size: (N, 3) width, length, height.  rotation: (N, 4) quaternions.
    """
    width, length, height = np.moveaxis(np.asarray(size, np.float64), -1, 0)
    x = np.array([1, 1, -1, -1, 1, 1, -1, -1]) / 2 * length[:, None]
    y = np.array([-1, 1, 1, -1, -1, 1, 1, -1]) / 2 * width[:, None]
    z = np.array([-1, -1, -1, -1, 1, 1, 1, 1]) / 2 * height[:, None]
    own = np.stack([x, y, z], -1)  # (N, 8, 3)
    turned = np.einsum("nij,nkj->nki", rotation_matrix(rotation).reshape(-1, 3, 3), own)
    return np.asarray(turned + np.asarray(center, np.float64)[:, None], np.float64)
