"""Views of a head: pose, lens and framing, drawn like the maps that users bring."""

from __future__ import annotations

import numpy as np

from .ict import Head
from .raster import F32, Bool, Camera, Mesh, render_camera
from .skin import bump_of, skin_slopes

#: Standard deviations of yaw and pitch in radians, and how often each pair is drawn.
POSES, POSE_SHARES = ((0.7, 0.25), (0.22, 0.12), (0.07, 0.06)), (0.2, 0.45, 0.35)

#: Cameras that are tried for each view: one that sees next to nothing is drawn again.
MOST_TRIES = 30

#: Texels of the skin that a head wears, which repeats every few centimetres.
SKIN_SIZE = 256


def draw_camera(head: Head, rng: np.random.Generator) -> Camera:
    """Draw a camera: mostly the whole face from near the front, else a part of it.

    Args:
        head: its bounds set the framing.
        rng: decides.

    Returns:
        The camera, in the head's frame and unit.
    """
    cm = head.unit
    front = head.vertices[head.normals[:, 2] > 0.3]
    low, high = front.min(axis=0), front.max(axis=0)
    # Of the head's height the face is the upper part: below it the neck.
    face = np.array([(low[0] + high[0]) / 2, high[1] - 0.48 * (high[1] - low[1]), high[2] - 6 * cm])
    # From anywhere, nearly from the front, or as one poses in a light stage.
    yaw_spread, pitch_spread = POSES[int(rng.choice(len(POSES), p=POSE_SHARES))]
    yaw, pitch = rng.normal(0, yaw_spread), rng.normal(0, pitch_spread)
    if rng.random() < 0.62:
        target = face + rng.normal(0, [1.2, 2.0, 0.5]) * cm
        width = rng.uniform(20, 36) * cm
    else:
        candidates = head.vertices[(head.normals[:, 2] > 0.1) & (head.vertices[:, 1] > face[1] - 9 * cm)]
        target = candidates[rng.integers(len(candidates))].astype(np.float64)
        width = rng.uniform(8, 20) * cm
    fov = float(np.exp(rng.uniform(np.log(0.12), np.log(0.8))))
    return Camera(
        target=(float(target[0]), float(target[1]), float(target[2])),
        width=float(width),
        yaw=float(np.clip(yaw, -1.6, 1.6)),
        pitch=float(np.clip(pitch, -0.8, 0.8)),
        roll=float(rng.normal(0, 0.05)),
        fov=fov,
    )


def render_views(
    head: Head,
    rng: np.random.Generator,
    count: int,
    size: int,
    oversample: int = 1,
    skin_share: float = 0.0,
    device: str = "cpu",
) -> list[tuple[F32, Bool, F32]]:
    """Render several views of one head.

    Args:
        head: the surface.
        rng: decides the cameras.
        count: how many views.
        size: side of each square map.
        oversample: see `render_camera`.
        skin_share: how likely the head wears procedural skin.
        device: where they are rendered.

    Returns:
        Camera-space normals (size, size, 3), surface maps (size, size), and the normal of the head's plane of
        symmetry in the camera's frame, (3,).

    Raises:
        ValueError: there is no head where cameras look for it.
    """
    mesh = Mesh(head.vertices, head.normals, head.triangles, device)
    views: list[tuple[F32, Bool, F32]] = []
    dressed = skin_share > 0 and rng.random() < skin_share
    if dressed:
        right, up = skin_slopes(rng, SKIN_SIZE)
        strength = rng.uniform(0.3, 1)
        width = rng.uniform(2.5, 9) * head.unit
    for _ in range(MOST_TRIES * count):
        if len(views) == count:
            break
        camera = draw_camera(head, rng)
        bump = (
            bump_of(strength * right, strength * up, width, camera.width / size, head.skin, device)
            if dressed
            else None
        )
        normals, valid = render_camera(mesh, camera, size, oversample, bump)
        if valid.mean() > 0.15:
            views.append((normals, valid, camera.rotation()[:, 0]))
    if len(views) < count:
        raise ValueError("cameras that look for a face see next to nothing: which way does the head look?")
    return views
