"""Random scenes and camera motions for generated two-view geometry (numpy).

The world frame is gravity-aligned (x right, y down, z forward) with camera 0 at its origin and the
scene at a depth of about 1. A scene is a handful of surfaces that rays are cast against, so that
occlusion is real: planes, boxes and ellipsoids before a far backdrop, or a depth map.

Shapes: N rays, P planes, S solids (unit cubes and unit balls under an affine map).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Scene kinds and how often each is drawn.
SCENE_WEIGHTS = {
    "facade": 0.22,
    "corner": 0.12,
    "room": 0.2,
    "objects": 0.18,
    "plane": 0.05,
    "nadir": 0.08,
    "depth_map": 0.1,
    "cloud": 0.05,
}

#: Motions and how often each is drawn, where the scene does not prescribe them.
MOTION_WEIGHTS = {
    "sideways": 0.27,
    "orbit": 0.33,
    "forward": 0.12,
    "zoom": 0.16,
    "tiny": 0.05,
    "free": 0.07,
}


@dataclass(frozen=True)
class Scene:
    """Surfaces in the world frame; see :meth:`cast`.

    Attributes:
        kind: key of SCENE_WEIGHTS.
        normals, offsets: (P, 3), (P,): planes n·X = offset.
        to_local: (S, 3, 3) world to the solid's own frame, in which it is a unit cube or ball.
        centres: (S, 3).
        num_boxes: the first so many solids are cubes, the rest balls.
        backdrop: distance at which a ray that meets nothing ends.
        roughness: relative spread of depth of points about the surface (relief, foliage).
        waves: (W, 4) frequencies, phase and amplitude of a depth map's log depth, W = 0 for none.
        steps: (T, 4) half planes of the image with a jump of log depth each.
        lattice: (2, 3) periods of the repeated structure (windows, tiles) in the world.
    """

    kind: str
    normals: np.ndarray
    offsets: np.ndarray
    to_local: np.ndarray
    centres: np.ndarray
    num_boxes: int
    backdrop: float
    roughness: float
    waves: np.ndarray
    steps: np.ndarray
    lattice: np.ndarray

    @property
    def is_depth_map(self) -> bool:
        """Whether depth is a function of the ray from the origin alone."""
        return len(self.waves) > 0

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Multiples of ``directions`` (3, N) from ``origin`` (3,) to the first surface, (N,)."""
        if self.is_depth_map:
            return self._depth_map(directions)
        first = self.backdrop / np.sqrt((directions * directions).sum(0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if len(self.normals):
                length = (self.offsets - self.normals @ origin)[:, None] / (
                    self.normals @ directions
                )
                length[~(length > 1e-4)] = np.inf
                first = np.minimum(first, length.min(0))
            if len(self.to_local):
                first = np.minimum(first, self._cast_solids(origin, directions))
        return first

    def _cast_solids(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        start = np.einsum("sij,sj->si", self.to_local, origin - self.centres)[:, :, None]
        ray = (self.to_local.reshape(-1, 3) @ directions).reshape(len(start), 3, -1)
        first = np.full(directions.shape[1], np.inf, directions.dtype)
        boxes, balls = slice(0, self.num_boxes), slice(self.num_boxes, None)
        if self.num_boxes:
            # A ray along a side has an exact zero, and 0 * inf would be NaN below.
            ray[boxes] += 1e-20
            inverse = 1 / ray[boxes]
            middle, half = -start[boxes] * inverse, np.abs(inverse)
            near, far = (middle - half).max(1), (middle + half).min(1)
            near[~((near < far) & (near > 1e-4))] = np.inf
            first = np.minimum(first, near.min(0))
        if len(start) > self.num_boxes:
            a = (ray[balls] * ray[balls]).sum(1)
            b = (ray[balls] * start[balls]).sum(1)
            c = (start[balls] * start[balls]).sum(1) - 1
            length = (-b - np.sqrt(b * b - a * c)) / a
            length[~(length > 1e-4)] = np.inf
            first = np.minimum(first, length.min(0))
        return first

    def _depth_map(self, directions: np.ndarray) -> np.ndarray:
        u, v = directions[0] / directions[2], directions[1] / directions[2]
        fx, fy, phase, height = self.waves.T[:, :, None]
        log_depth = (height * np.sin(fx * u + fy * v + phase)).sum(0)
        if len(self.steps):
            a, b, c, jump = self.steps.T[:, :, None]
            log_depth = log_depth + (jump * (a * u + b * v > c)).sum(0)
        return np.exp(log_depth) / directions[2]


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) rotation by ``angle`` radians about ``axis`` (3,) (Rodrigues' formula)."""
    x, y, z = (float(v) for v in axis)
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    s, c = math.sin(angle), math.cos(angle)
    d = 1 - c
    return np.array([
        [c + d * x * x, d * x * y - s * z, d * x * z + s * y],
        [d * x * y + s * z, c + d * y * y, d * y * z - s * x],
        [d * x * z - s * y, d * y * z + s * x, c + d * z * z],
    ])


def random_scene(rng: np.random.Generator, kind: str | None = None) -> Scene:
    """A scene of the given kind (a key of SCENE_WEIGHTS), or of one drawn by those weights."""
    if kind is None:
        kind = pick(rng, SCENE_WEIGHTS)
    if kind not in SCENE_WEIGHTS:
        raise ValueError(f"kind: got {kind!r}, wanted one of {', '.join(SCENE_WEIGHTS)}")
    return _Builder(rng, kind).build()


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, drawn in proportion to its weight."""
    names = list(weights)
    lot = rng.random() * sum(weights.values())
    for name in names:
        lot -= weights[name]
        if lot < 0:
            return name
    return names[-1]


class _Builder:
    """Collects the surfaces of one scene."""

    def __init__(self, rng: np.random.Generator, kind: str):
        self.rng, self.kind = rng, kind
        self.planes: list[tuple[np.ndarray, float]] = []
        self.boxes: list[tuple[np.ndarray, np.ndarray]] = []
        self.balls: list[tuple[np.ndarray, np.ndarray]] = []
        self.waves = np.zeros((0, 4))
        self.steps = np.zeros((0, 4))
        self.axes = (np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))
        self.backdrop = float(rng.uniform(3, 40))
        self.roughness = (0.0, 0.003, 0.01, 0.03)[int(rng.integers(4))]

    def build(self) -> Scene:
        getattr(self, "_" + self.kind)()
        rng = self.rng
        period = rng.uniform(0.04, 0.35, 2) * np.where(rng.random(2) < 0.5, 1, -1)
        solids = self.boxes + self.balls
        dtype = np.float32
        return Scene(
            kind=self.kind,
            normals=np.array([n for n, _ in self.planes], dtype).reshape(-1, 3),
            offsets=np.array([d for _, d in self.planes], dtype),
            to_local=np.array([m for m, _ in solids], dtype).reshape(-1, 3, 3),
            centres=np.array([c for _, c in solids], dtype).reshape(-1, 3),
            num_boxes=len(self.boxes),
            backdrop=self.backdrop,
            roughness=self.roughness,
            waves=self.waves.astype(dtype),
            steps=self.steps.astype(dtype),
            lattice=np.stack([self.axes[0] * period[0], self.axes[1] * period[1]]),
        )

    def _wall(self, yaw: float, distance: float) -> np.ndarray:
        """A vertical plane that the optical axis meets at ``distance``; returns its normal."""
        normal = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
        self.planes.append((normal, distance * normal[2]))
        self.axes = (np.array([normal[2], 0.0, -normal[0]]), np.array([0.0, 1.0, 0.0]))
        return normal

    def _floor(self, height: float) -> None:
        self.planes.append((np.array([0.0, 1.0, 0.0]), height))

    def _solid(self, centre: np.ndarray, half: np.ndarray, yaw: float, ball: bool) -> None:
        to_local = rotation(np.array([0.0, 1, 0]), yaw) / np.asarray(half)[:, None]
        (self.balls if ball else self.boxes).append((to_local, np.asarray(centre)))

    def _clutter(self, count: int, floor: float, near: float, far: float, size: float) -> None:
        """Boxes and ellipsoids that stand on the floor (furniture, cars, trees, people)."""
        rng = self.rng
        for _ in range(count):
            z = rng.uniform(near, far)
            half = size * rng.lognormal(0, 0.5, 3)
            half[1] = min(half[1], 0.9 * (floor + 0.5))
            centre = np.array([rng.uniform(-0.8, 0.8) * z, floor - half[1], z])
            self._solid(centre, half, rng.uniform(0, np.pi), rng.random() < 0.45)

    def _relief(self, count: int, yaw: float, distance: float) -> None:
        """Flat boxes on a wall: balconies, pillars, portals, shelves."""
        rng = self.rng
        normal = np.array([np.sin(yaw), 0.0, np.cos(yaw)])
        along = np.array([normal[2], 0.0, -normal[0]])
        for _ in range(count):
            out = rng.uniform(0.01, 0.15)
            half = np.array([rng.uniform(0.04, 0.3), rng.uniform(0.05, 0.5), out])
            centre = normal * distance * normal[2] + along * rng.uniform(-0.7, 0.7)
            centre = centre + np.array([0.0, rng.uniform(-0.5, 0.3), 0.0])
            self._solid(centre, half, -yaw, False)

    def _facade(self) -> None:
        rng = self.rng
        yaw = float(np.clip(rng.normal(0, 0.45), -1.1, 1.1))
        self._wall(yaw, 1.0)
        floor = rng.uniform(0.08, 0.6)
        if rng.random() < 0.75:
            self._floor(floor)
        self._relief(int(rng.integers(0, 7)), yaw, 1.0)
        self._clutter(int(rng.integers(0, 4)), floor, 0.3, 0.9, 0.07)

    def _corner(self) -> None:
        rng = self.rng
        yaw = rng.uniform(0.3, 1.0)
        self._wall(yaw, rng.uniform(0.8, 1.3))
        self._wall(-(np.pi / 2 - yaw) + rng.normal(0, 0.1), rng.uniform(0.8, 1.3))
        floor = rng.uniform(0.08, 0.5)
        self._floor(floor)
        self._clutter(int(rng.integers(0, 5)), floor, 0.3, 1.0, 0.08)

    def _room(self) -> None:
        rng = self.rng
        turn = rotation(np.array([0.0, 1, 0]), rng.uniform(-0.8, 0.8))
        for axis, sign, low, high in (
            (0, 1, 0.3, 1.2), (0, -1, 0.3, 1.2), (2, 1, 0.7, 1.6), (2, -1, 0.3, 1.2),
        ):
            normal = np.zeros(3)
            normal[axis] = sign
            self.planes.append((turn @ normal, rng.uniform(low, high)))
        floor = rng.uniform(0.25, 0.6)
        self._floor(floor)
        self.planes.append((np.array([0.0, -1.0, 0.0]), rng.uniform(0.25, 0.8)))
        self.axes = (turn[:, 0], np.array([0.0, 1.0, 0.0]))
        self._clutter(int(rng.integers(2, 9)), floor, 0.25, 1.1, 0.12)

    def _objects(self) -> None:
        rng = self.rng
        floor = rng.uniform(0.1, 0.5)
        if rng.random() < 0.7:
            self._floor(floor)
        if rng.random() < 0.6:
            self._wall(rng.normal(0, 0.4), rng.uniform(1.3, 4))
        main = rng.uniform(0.1, 0.4)
        for _ in range(int(rng.integers(1, 6))):
            half = main * rng.lognormal(0, 0.4, 3)
            centre = np.array([0, 0, 1.0]) + rng.normal(0, 0.7 * main, 3)
            half = np.minimum(half, 0.6 * np.linalg.norm(centre))
            self._solid(centre, half, rng.uniform(0, np.pi), rng.random() < 0.7)

    def _plane(self) -> None:
        tilt = rotation(self.rng.normal(size=3), np.clip(self.rng.normal(0, 0.4), -1, 1))
        normal = tilt[:, 2]
        self.planes.append((normal, normal[2]))
        self.axes = (tilt[:, 0], tilt[:, 1])
        self.backdrop = 20.0
        self.roughness = 0.0

    def _nadir(self) -> None:
        """Seen from above: the optical axis stands nearly upright on the ground, at z = 1."""
        rng = self.rng
        tilt = rotation(rng.normal(size=3), np.clip(rng.normal(0, 0.12), -0.4, 0.4))
        self.planes.append((tilt[:, 2], tilt[2, 2]))
        self.axes = (tilt[:, 0], tilt[:, 1])
        for _ in range(int(rng.integers(0, 9))):
            half = np.array([*rng.uniform(0.03, 0.2, 2), rng.uniform(0.01, 0.2)])
            spin = tilt @ rotation(np.array([0.0, 0, 1]), rng.uniform(0, np.pi))
            centre = tilt @ np.array([*rng.uniform(-0.6, 0.6, 2), 0.0]) + np.array([0, 0, 1.0])
            self.boxes.append((spin.T / half[:, None], centre))

    def _depth_map(self) -> None:
        rng = self.rng
        count = int(rng.integers(2, 7))
        self.waves = np.column_stack([
            rng.normal(0, 5, (count, 2)),
            rng.uniform(0, 2 * np.pi, count),
            rng.uniform(0.02, 0.5, count) / np.sqrt(count),
        ])
        edges = int(rng.integers(0, 5))
        angle = rng.uniform(0, 2 * np.pi, edges)
        self.steps = np.column_stack([
            np.cos(angle), np.sin(angle), rng.uniform(-0.3, 0.3, edges), rng.normal(0, 0.3, edges),
        ])

    def _cloud(self) -> None:
        self._depth_map()
        self.roughness = float(self.rng.uniform(0.05, 0.5))


@dataclass(frozen=True)
class Camera:
    """Half extents of the image in calibrated units (tangents), and focal length in pixels."""

    half_width: float
    half_height: float
    focal: float


def random_camera(rng: np.random.Generator) -> Camera:
    """A camera with a field of view of 30° to 95° across its longer side."""
    half = math.tan(math.radians(min(max(rng.normal(56, 16), 30), 95)) / 2)
    aspect = (4 / 3, 4 / 3, 4 / 3, 4 / 3, 3 / 2, 3 / 2, 3 / 2, 16 / 9, 1.0)[int(rng.integers(9))]
    longer_side = 2 ** rng.uniform(9, 10.7)
    focal = longer_side / (2 * half)
    if rng.random() < 0.3:
        return Camera(half / aspect, half, focal)
    return Camera(half, half / aspect, focal)


def random_tilt(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Rotation world -> camera 0: hand-held pitch and roll; free for scenes without gravity."""
    spread = 0.02 if kind in ("nadir", "plane", "depth_map", "cloud") else 0.1
    pitch, roll = rng.normal(0, spread, 2)
    return rotation(np.array([0.0, 0, 1]), roll) @ rotation(np.array([1.0, 0, 0]), pitch)


def look_at(centre: np.ndarray, target: np.ndarray, down: np.ndarray, roll: float) -> np.ndarray:
    """Rotation world -> camera at ``centre`` that sees ``target`` on its axis, then rolled.

    ``down`` (3,) is the world direction of the image's y axis before rolling, as far as possible.
    """
    z = target - centre
    z = z / np.linalg.norm(z)
    x = _cross(down, z)
    if x @ x < 1e-6:
        x = _cross(down + np.array([0.0, 0.3, 0.7]), z)
    x = x / np.linalg.norm(x)
    return rotation(np.array([0.0, 0, 1]), roll) @ np.stack([x, _cross(z, x), z])


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of two vectors; numpy's own takes 40 times as long for three numbers."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def random_motion(
    rng: np.random.Generator, scene: Scene, focus: np.ndarray, tilt: np.ndarray, difficulty: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Camera 1 of a pair: centre (3,), the point it looks at (3,), and its roll in radians.

    Args:
        scene: decides which motions are likely.
        focus: (3,) a point that camera 0 sees.
        tilt: (3, 3) rotation of camera 0.
        difficulty: 0 (nearly the same view) to 1 (as far apart as features are ever matched).
    """
    weights = dict(MOTION_WEIGHTS)
    if scene.kind == "nadir":
        weights = {"sideways": 0.85, "zoom": 0.1, "orbit": 0.05}
    elif scene.kind == "objects":
        weights["orbit"] = 1.0
    elif scene.is_depth_map:
        weights["orbit"] = 0.1
    kind = pick(rng, weights)
    depth = float(np.linalg.norm(focus))
    centre = depth * rng.normal(0, 0.02, 3)
    side = rng.normal(0, 1, 3) * np.array([1.0, 0.9 if scene.kind == "nadir" else 0.25, 0.15])
    side = tilt.T @ (side / np.linalg.norm(side))
    keep_direction = rng.random() < 0.3
    reach = 0.1 + 0.9 * difficulty
    if kind == "sideways":
        centre = centre + depth * reach * rng.uniform(0.03, 1.0) * side
    elif kind == "orbit":
        angle = np.radians(2 + 68 * reach * rng.random()) * (1 if rng.random() < 0.5 else -1)
        axis = np.array([0.0, 1.0, 0.0]) + rng.normal(0, 0.15, 3)
        radius = np.exp(rng.normal(0, 0.3 * reach))
        centre = centre + focus - radius * (rotation(axis, angle) @ focus)
        keep_direction = False
    elif kind == "forward":
        ahead = reach * rng.uniform(0.03, 0.7) * (1 if rng.random() < 0.6 else -1.5)
        centre = centre + depth * ahead * tilt[2]
    elif kind == "zoom":
        # Approach to between 1/3 and 3 times the distance, a little to the side.
        factor = np.exp(reach * rng.uniform(-1.1, 1.1))
        centre = centre + (1 - factor) * focus + depth * reach * rng.uniform(0, 0.4) * side
    elif kind == "tiny":
        centre = depth * 10 ** rng.uniform(-3.3, -1.7) * side
    else:
        centre = centre + depth * reach * rng.normal(0, 0.4, 3)
    target = centre + depth * tilt[2] if keep_direction else focus
    target = target + depth * (0.03 + 0.2 * reach) * rng.normal(0, 1, 3)
    roll = rng.normal(0, 0.06)
    lot = rng.random()
    if lot < 0.07:
        roll += np.pi / 2 * int(rng.integers(1, 4))
    elif lot < (0.6 if scene.kind == "nadir" else 0.15):
        roll = rng.uniform(-np.pi, np.pi)
    return centre, target, float(roll)
