"""Cars, vans, trucks and buses, as solids. Each function returns the variants of one kind, made once."""

from __future__ import annotations

from functools import lru_cache

from visloom.data.town.mesh import Builder, Floats, Material, Mesh, circle

M = Material


@lru_cache(maxsize=1)
def cars() -> tuple[Mesh, ...]:
    """Hatchback, saloon, sport utility."""
    shapes = (
        ((-0.49, 0.20), (-0.42, 0.04), 0.54),
        ((-0.37, 0.20), (-0.20, 0.05), 0.56),
        ((-0.49, 0.22), (-0.46, 0.09), 0.56),
    )
    return tuple(_car(*shape) for shape in shapes)


def _car(base: tuple[float, float], roof: tuple[float, float], belt: float) -> Mesh:
    b = Builder()
    b.body()
    body = b.box(
        (-0.5, 0.17, -0.5), (0.5, belt + 0.04, 0.5), M.MAIN, top=(-0.49, 0.49, -0.49, 0.47), front_drop=0.08
    )
    _ends(b, body, high=0.72)
    for side in ("left", "right"):
        b.pane(body[side], 0.0, 0.0, 1.0, 0.10, M.TRIM)
        b.pane(body[side], 0.47, 0.14, 0.475, 0.95, M.TRIM)
        b.pane(
            body[side], 0.40 if side == "left" else 0.54, 0.72, 0.46 if side == "left" else 0.60, 0.78, M.TRIM
        )
    for z in (-0.31, 0.31):
        b.wheel(z, 0.33, (1.8, 1.45, 4.4), axle=0.502, low=0.17)
    b.piece(1)
    cabin = b.box((-0.47, belt, base[0]), (0.47, 1.0, base[1]), M.MAIN, top=(-0.39, 0.39, *roof))
    b.pane(cabin["front"], 0.05, 0.08, 0.95, 0.92, M.GLASS)
    b.pane(cabin["back"], 0.08, 0.22, 0.92, 0.88, M.GLASS)
    for side in ("left", "right"):
        b.pane(cabin[side], 0.05, 0.10, 0.48, 0.88, M.GLASS)
        b.pane(cabin[side], 0.53, 0.10, 0.95, 0.88, M.GLASS)
    return b.build()


@lru_cache(maxsize=1)
def vans() -> tuple[Mesh, ...]:
    """Panel van, minibus with side windows, van with a painted side."""
    return tuple(_van(windows, stripe) for windows, stripe in ((False, False), (True, False), (False, True)))


def _van(windows: bool, stripe: bool) -> Mesh:
    b = Builder()
    b.body()
    nose = b.box((-0.5, 0.12, 0.22), (0.5, 0.52, 0.5), M.MAIN, top=(-0.48, 0.48, 0.22, 0.46), front_drop=0.05)
    _ends(b, nose, high=0.66, back=False)
    b.body()
    body = b.box((-0.5, 0.12, -0.5), (0.5, 1.0, 0.36), M.MAIN, top=(-0.46, 0.46, -0.49, 0.16))
    b.pane(body["front"], 0.06, 0.44, 0.94, 0.90, M.GLASS)
    b.pane(body["back"], 0.49, 0.05, 0.51, 0.95, M.TRIM)
    for left, right in ((0.08, 0.46), (0.54, 0.92)):
        b.pane(body["back"], left, 0.58, right, 0.86, M.GLASS)
    b.pane(body["back"], 0.02, 0.16, 0.12, 0.34, M.TAIL)
    b.pane(body["back"], 0.88, 0.16, 0.98, 0.34, M.TAIL)
    b.pane(body["back"], 0.36, 0.12, 0.64, 0.20, M.PLATE)
    for side, front in (("right", True), ("left", False)):
        _panes(b, body[side], [(0.70, 0.88)], 0.55, 0.85, mirror=not front)
        if windows:
            _panes(b, body[side], [(0.08, 0.34), (0.38, 0.64)], 0.55, 0.85, mirror=not front)
        if stripe:
            _panes(b, body[side], [(0.05, 0.62)], 0.30, 0.62, mirror=not front, material=M.SECOND)
        _panes(b, body[side], [(0.0, 1.0)], 0.0, 0.06, mirror=not front, material=M.TRIM)
        _panes(b, body[side], [(0.66, 0.668)], 0.08, 0.92, mirror=not front, material=M.TRIM)
    b.body(1)
    for z in (-0.31, 0.33):
        b.wheel(z, 0.36, (2.0, 2.2, 5.2), axle=0.505, low=0.12)
    return b.build()


@lru_cache(maxsize=1)
def buses() -> tuple[Mesh, ...]:
    """City bus, coach, double-decker."""
    return _bus(0.42, 0.80, False), _bus(0.50, 0.88, False), _bus(0.26, 0.46, True)


def _bus(low: float, high: float, double: bool) -> Mesh:
    b = Builder()
    b.body()
    body = b.box((-0.5, 0.09, -0.5), (0.5, 1.0, 0.5), M.MAIN, top=(-0.48, 0.48, -0.495, 0.49))
    rows = [(low, high), (0.60, 0.86)] if double else [(low, high)]
    for bottom, top in rows:
        upper = bottom > 0.55
        b.pane(body["front"], 0.05, bottom - (0.0 if upper else 0.06), 0.95, top, M.GLASS)
        b.pane(body["back"], 0.12, bottom + 0.03, 0.88, top, M.GLASS)
        for side, front in (("right", True), ("left", False)):
            _panes(b, body[side], [(0.0, 1.0)], bottom - 0.01, top + 0.01, mirror=not front, material=M.TRIM)
            spans = [(0.02 + 0.107 * i, 0.02 + 0.107 * i + 0.096) for i in range(9)]
            _panes(b, body[side], spans, bottom + 0.01, top - 0.01, mirror=not front)
    for side, front in (("right", True), ("left", False)):
        _panes(b, body[side], [(0.0, 1.0)], 0.10, 0.20, mirror=not front, material=M.SECOND)
        if front:
            _panes(b, body[side], [(0.86, 0.95), (0.46, 0.55)], 0.02, 0.62, mirror=False)
            _panes(b, body[side], [(0.903, 0.907), (0.503, 0.507)], 0.02, 0.62, mirror=False, material=M.TRIM)
    b.pane(body["front"], 0.0, 0.10, 1.0, 0.20, M.SECOND)
    b.pane(body["front"], 0.18, 0.90, 0.82, 0.985, M.BLACK)
    b.pane(body["front"], 0.26, 0.92, 0.74, 0.965, M.WAIT)
    for left, right in ((0.05, 0.18), (0.82, 0.95)):
        b.pane(body["front"], left, 0.08, right, 0.14, M.LAMP)
        b.pane(body["back"], left, 0.10, right, 0.22, M.TAIL)
    b.pane(body["back"], 0.25, 0.06, 0.75, 0.26, M.TRIM)
    b.body(1)
    for z in (-0.27, 0.33):
        b.wheel(z, 0.50, (2.5, 4.2 if double else 3.1, 11.0), axle=0.503, low=0.09)
    return b.build()


@lru_cache(maxsize=1)
def trucks() -> tuple[Mesh, ...]:
    """Box lorry, tipper with a load, tanker, flatbed with crates."""
    return tuple(_truck(load) for load in ("box", "tipper", "tank", "crates"))


def _truck(load: str) -> Mesh:
    b = Builder()
    b.body()
    b.box((-0.42, 0.16, -0.5), (0.42, 0.28, 0.45), M.TRIM)
    for z in (-0.38, -0.24, 0.36):
        b.wheel(z, 0.50, (2.5, 3.2, 8.0), axle=0.495, low=0.16)
    b.body(1)
    cab = b.box((-0.48, 0.17, 0.26), (0.48, 0.84, 0.5), M.MAIN, top=(-0.46, 0.46, 0.27, 0.475))
    b.pane(cab["front"], 0.06, 0.50, 0.94, 0.88, M.GLASS)
    b.pane(cab["front"], 0.14, 0.16, 0.86, 0.40, M.TRIM)
    for left, right in ((0.04, 0.20), (0.80, 0.96)):
        b.pane(cab["front"], left, 0.05, right, 0.14, M.LAMP)
    b.pane(cab["front"], 0.36, 0.04, 0.64, 0.11, M.PLATE)
    for side, front in (("right", True), ("left", False)):
        _panes(b, cab[side], [(0.30, 0.86)], 0.52, 0.86, mirror=not front)
        _panes(b, cab[side], [(0.20, 0.22)], 0.08, 0.9, mirror=not front, material=M.TRIM)
    b.body(1)
    if load == "tank":
        _tank(b)
    else:
        _load(b, load)
    return b.build()


def _load(b: Builder, load: str) -> None:
    top = {"box": 1.0, "tipper": 0.66, "crates": 0.34}[load]
    shape = (-0.5, 0.5, -0.5, 0.23) if load == "box" else (-0.5, 0.5, -0.5, 0.21)
    body = b.box((-0.5, 0.27, -0.5), (0.5, top, 0.22), M.SECOND, top=shape)
    for side, front in (("right", True), ("left", False)):
        if load == "box":
            _panes(b, body[side], [(0.12, 0.88)], 0.34, 0.66, mirror=not front, material=M.THIRD)
        elif load == "tipper":
            ribs = [(0.03 + 0.16 * i, 0.05 + 0.16 * i) for i in range(7)]
            _panes(b, body[side], ribs, 0.0, 1.0, mirror=not front, material=M.TRIM)
        _panes(b, body[side], [(0.0, 1.0)], 0.0, 0.05, mirror=not front, material=M.METAL)
    if load == "box":
        b.pane(body["back"], 0.49, 0.04, 0.51, 0.97, M.TRIM)
        b.pane(body["back"], 0.04, 0.93, 0.96, 0.97, M.METAL)
    for left, right in ((0.02, 0.14), (0.86, 0.98)):
        b.pane(body["back"], left, 0.0, right, 0.08 if load == "box" else 0.16, M.TAIL)
    if load == "tipper":
        b.piece(1)
        b.box((-0.44, 0.66, -0.45), (0.44, 0.86, 0.16), M.THIRD, top=(-0.16, 0.16, -0.22, 0.02))
    if load == "crates":
        for z0, z1, high in ((-0.48, -0.26, 0.66), (-0.24, -0.02, 0.78), (0.0, 0.20, 0.60)):
            b.piece(1)
            crate = b.box((-0.46, 0.34, z0), (0.46, high, z1), M.WOOD)
            for side in ("left", "right", "back"):
                for low in (0.05, 0.38, 0.71):
                    b.pane(crate[side], 0.04, low, 0.96, low + 0.24, M.THIRD)


def _tank(b: Builder) -> None:
    """A lying cylinder: ten flat strips, two of them with a label, and two end plates."""
    ring = [(0.5 * x, 0.62 + 0.34 * y) for x, y in circle(0.0, 0.0, 1.0, 10)]
    for i, ((x0, y0), (x1, y1)) in enumerate(zip(ring, [*ring[1:], ring[0]])):
        normal = (0.68 * (x0 + x1), (y0 + y1) / 2 - 0.62, 0.0)
        for back, front, material in ((-0.5, 0.22, M.SECOND), (-0.3, 0.1, M.THIRD)):
            if material == M.SECOND or i in (0, 4):
                b.polygon(
                    [(x0, y0, back), (x0, y0, front), (x1, y1, front), (x1, y1, back)], material, normal
                )
    b.polygon([(x, y, -0.5) for x, y in ring], M.METAL, (0, 0, -1))
    b.polygon([(x, y, 0.22) for x, y in ring], M.METAL, (0, 0, 1))


def _panes(
    b: Builder,
    face: Floats,
    spans: list[tuple[float, float]],
    low: float,
    high: float,
    *,
    mirror: bool,
    material: Material = M.GLASS,
) -> None:
    """Rectangles on a side; spans run from the vehicle's back to its front."""
    for left, right in spans:
        if mirror:
            left, right = 1 - right, 1 - left
        b.pane(face, left, low, right, high, material)


def _ends(b: Builder, body: dict[str, Floats], high: float, *, back: bool = True) -> None:
    """Lamps, grille, bumper and number plate."""
    for left, right in ((0.03, 0.22), (0.78, 0.97)):
        b.pane(body["front"], left, high - 0.24, right, high, M.LAMP)
        if back:
            b.pane(body["back"], left, high - 0.18, right, high + 0.06, M.TAIL)
    b.pane(body["front"], 0.26, high - 0.26, 0.74, high - 0.04, M.TRIM)
    b.pane(body["front"], 0.36, 0.14, 0.64, 0.30, M.PLATE)
    b.pane(body["front"], 0.0, 0.0, 1.0, 0.10, M.TRIM)
    if back:
        b.pane(body["back"], 0.36, 0.30, 0.64, 0.46, M.PLATE)
        b.pane(body["back"], 0.0, 0.0, 1.0, 0.14, M.TRIM)
