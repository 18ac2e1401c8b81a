"""Poses of a folder of photographs by COLMAP (pycolmap), where it has no model yet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from n3match.datasets.scenes.colmap import model_folder
from n3match.pipelines.folder.photographs import find_photographs
from n3match.plugins.colmap.model import read_colmap_model

# What COLMAP itself reads.
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
LEAST_IMAGES = 3


def reconstruct(
    images: Path, workspace: Path, *, threads: int = 1, say: Callable[[str], None] = print
) -> list[str]:
    """Make a COLMAP model of a folder of photographs, by SIFT, exhaustive matching and mapping.

    Goes on where a run that was stopped left its database; a finished model is used again.

    Args:
        images: the folder.
        workspace: folder for COLMAP's database and the model (in `sparse/`).
        threads: that COLMAP may use.
        say: gets a line at each stage.

    Returns:
        A line for each photograph whose pose was not found. The workspace is then a scene for
        `read_colmap_scene`, but for the images.

    Raises:
        ImportError: pycolmap is not installed. FileNotFoundError, ValueError: see
            `find_photographs`; the photographs don't fit together.
    """
    names = find_photographs(images, LEAST_IMAGES, _SUFFIXES)
    target = workspace / "sparse"
    if model_folder(workspace) is None:
        pycolmap = load_pycolmap(
            f"{images} has no COLMAP model and pycolmap is not installed to make one"
        )
        try:
            _run(pycolmap, images, workspace, target, names, threads, say)
        except RuntimeError as error:  # how pycolmap tells of anything
            raise ValueError(
                f"{images}: COLMAP failed ({error}); to begin anew remove {workspace}"
            ) from error
    return _without_pose(workspace, names)


def _run(pycolmap, images: Path, workspace: Path, target: Path, names, threads: int, say) -> None:
    workspace.mkdir(parents=True, exist_ok=True)
    database = workspace / "database.db"
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False)
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    say(f"COLMAP: keypoints of {len(names)} photographs")
    pycolmap.extract_features(database, images, names, extraction_options=extraction)
    say("COLMAP: matching all pairs")
    pycolmap.match_exhaustive(database, matching_options=matching)
    say("COLMAP: poses")
    if map_largest(pycolmap, database, images, target, threads=threads) is None:
        raise ValueError(
            f"{images}: COLMAP found no poses: the {len(names)} photographs don't show enough of "
            "the same scene from different places"
        )


def map_largest(
    pycolmap,
    database: Path,
    images: Path,
    target: Path,
    *,
    threads: int = 1,
    registered: Callable[[], None] | None = None,
) -> tuple | None:
    """COLMAP's incremental mapper; the model with the most images, written whole or not at all.

    Args:
        pycolmap: the package.
        database: with two-view geometries; images: the photographs, for the colours of points.
        target: folder for the model; what is there is replaced.
        threads: that COLMAP may use.
        registered: called after each image that gets a pose.

    Returns:
        The model, a `pycolmap.Reconstruction`, and how many others there are; None where there is
        no model.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=threads, min_model_size=LEAST_IMAGES, random_seed=0
    )
    models = pycolmap.incremental_mapping(
        database, images, unfinished, options=options, next_image_callback=registered
    )
    if models:
        largest = max(models, key=lambda i: models[i].num_reg_images())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(unfinished / str(largest), target)
    shutil.rmtree(unfinished)
    return (models[largest], len(models) - 1) if models else None


def _without_pose(workspace: Path, names: list[str]) -> list[str]:
    known = {image.name for image in read_colmap_model(model_folder(workspace)).images.values()}
    return [f"{name}: COLMAP found no pose for it" for name in names if name not in known]


def load_pycolmap(otherwise: str):
    """The package, told to be quiet.

    Raises:
        ImportError: it isn't installed: says `otherwise`, and how to install it.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError(f'{otherwise}: pip install "n3match[colmap]"') from error
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    return pycolmap
