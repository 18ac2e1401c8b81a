"""Training and test data: scenes, stores of image pairs, generated pairs, images and noise."""

from importlib import import_module

# Imported when first used: torch and OpenCV take seconds to load, `n3match --help` should not.
_MODULES = {
    "Augmentation": "pairs.augment",
    "CleanImages": "denoising.clean_images",
    "PairDataset": "pairs.dataset",
    "PairRecord": "pairs.store",
    "PairStoreWriter": "pairs.store_writer",
    "ReadOptions": "scenes.source",
    "SyntheticPairs": "synthetic.pairs",
    "augment": "pairs.augment",
    "collate": "pairs.batches",
    "find_scenes": "scenes.formats",
    "open_store": "pairs.store",
    "read_scene": "scenes.formats",
}

__all__ = [*_MODULES]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'n3match.datasets' has no attribute {name!r}")
    value = getattr(import_module(f"n3match.datasets.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
