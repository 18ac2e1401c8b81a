"""What the API reference covers: the public names of the modules, read from the source files.

Griffe reads them; nothing is imported, so no optional package is needed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]

# Modules by heading of the list of contents. Names: what is shown of a module without `__all__`.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Start here": {"n3match": ()},
    "Matches and poses": {
        "n3match.matching": (),
        "n3match.geometry": (),
        "n3match.geometry.estimators": (),
        "n3match.ragged": ("PairMatches", "score_pairs"),
        "n3match.side_information": ("relative_distance", "relative_apart", "side_columns"),
        "n3match.export": ("export_program", "export_onnx", "input_names"),
        "n3match.weights": (),
    },
    "Where you match already": {
        "n3match.plugins": ("opencv", "kornia", "hloc", "gluefactory", "vismatch"),
        "n3match.plugins.opencv": (),
        "n3match.plugins.kornia": (),
        "n3match.plugins.hloc": (),
        "n3match.plugins.gluefactory": ("N3MatchFilter",),
        "n3match.plugins.vismatch": ("FilteredMatcher",),
        "n3match.plugins.batched_matches": ("filter_batch",),
    },
    "Networks and the operator": {
        "n3match.ops": (),
        "n3match.ops.reference": ("n3_weights", "n3_aggregate", "n3_window_aggregate"),
        "n3match.nn": (),
        "n3match.denoising": (),
    },
    "Readers of data": {
        "n3match.datasets.scene_formats": ("FoundScene", "find_scenes", "read_scene"),
        "n3match.datasets.scene_source": ("ReadOptions", "View", "ScenePair", "SceneSource"),
        "n3match.datasets.colmap": (
            "ColmapCamera", "ColmapImage", "ColmapModel", "has_colmap_model", "read_colmap_model",
            "read_colmap_points", "relative_pose", "covisible_pairs",
        ),
        "n3match.datasets.colmap_database": (
            "ColmapDatabase", "DatabaseKeypoints", "TwoViewGeometry", "PairResult", "pair_ids",
            "pair_number", "checksum",
        ),
        "n3match.datasets.pair_store": (
            "PairRecord", "open_store", "read_record", "StoreReport", "read_report",
        ),
        "n3match.datasets.pair_store_writer": ("PairStoreWriter",),
        "n3match.datasets.pair_dataset": ("PairDataset",),
        "n3match.datasets.image_files": ("read_image", "images_in"),
        "n3match.datasets.images": (
            "read_image_gray", "read_image_rgb", "read_image_size", "read_focal_px",
            "intrinsics_from_focal", "default_intrinsics",
        ),
        "n3match.datasets.dnd": ("DndImage", "read_info", "read_image"),
    },
}  # fmt: skip
MODULES = {module: names for group in GROUPS.values() for module, names in group.items()}


@dataclass(frozen=True)
class Name:
    """A public name: where the page of its module shows it, and what it stands for."""

    module: str
    name: str
    object: griffe.Object

    @property
    def is_at_home(self) -> bool:
        """Whether this page describes it; the others that have it link there."""
        return _home(self.object) in (None, self.module)


def _home(found: griffe.Object) -> str | None:
    """The module that describes it: the listed one that is nearest to where it is defined."""
    if found.is_module:
        return found.path
    above = found.module.path.replace("datasets.", "n3match.datasets.")
    while above not in MODULES:
        above = above.rpartition(".")[0]
    names = MODULES[above]
    return above if not names or found.name in names else "n3match"


def load() -> dict[str, tuple[griffe.Module, list[Name]]]:
    """Every module of `MODULES` and its public names."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], allow_inspection=False)
    for package in ("n3match", "datasets"):  # datasets/ is installed as n3match.datasets
        loader.load(package, try_relative_path=False)
    loader.resolve_aliases(external=False)
    collection = loader.modules_collection
    found = {}
    for path, names in MODULES.items():
        module = collection[path.replace("n3match.datasets", "datasets")]
        names = list(names) or _exports(module)
        objects = [_object(collection, module, name) for name in names]
        found[path] = module, [Name(path, n, o) for n, o in zip(names, objects)]
    return found


def _exports(module: griffe.Module) -> list[str]:
    if "_MODULES" in module.members:  # the package itself imports its names when they are used
        return list(_table(module))
    return [str(name) for name in module.exports]


def _table(module: griffe.Module) -> dict[str, str]:
    return ast.literal_eval(str(module.members["_MODULES"].value))


def _object(collection, module: griffe.Module, name: str) -> griffe.Object:
    # A function may have the name of the module that defines it.
    imported = module.imports.get(name)
    if imported:
        above, _, own = imported.rpartition(".")
        found = collection[above].members[own]
    elif name in module.members:
        found = module.members[name]
    else:
        return _object(collection, collection[_table(module)[name]], name)
    return found.final_target if found.is_alias else found


def methods(of: griffe.Class) -> list[griffe.Object]:
    """What a class defines for its users: methods, `__call__` among them, and properties."""
    return [
        member
        for name, member in of.members.items()
        if (not name.startswith("_") or name == "__call__")
        and (member.is_function or "property" in member.labels)
    ]
