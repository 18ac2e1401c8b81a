"""Write pair stores so that a run killed at any moment can go on where it was."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from n3match.datasets.pairs.store import (
    CAMERA_GROUPS,
    CORE_GROUPS,
    EXTRA_GROUPS,
    FIELD_GROUPS,
    OPTIONAL_FIELD_GROUPS,
    OPTIONAL_GROUPS,
    ROW_FIELDS,
    SCHEMA_VERSION,
    SECOND,
    SECOND_GROUPS,
    PairRecord,
    open_store,
    read_report,
    shape_fits,
)
from n3match.files.new_hdf5 import NewHdf5
from n3match.files.whole import whole_file

# gzip is what every build of HDF5 can read; small arrays would only grow by it.
_PACKED = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_PACK_FROM = 1024  # bytes


class PairStoreWriter:
    """Writes a store in parts, so that a run killed at any moment goes on where it was.

    HDF5 files can be left unreadable when a writer dies, so no file that counts is ever open for
    writing: each part is a small store of its own in `<path>.parts/`, renamed into place when
    complete, and `finish` joins the parts into `path` in the same way. Parts are readable stores.

    Args:
        path: the store to make.
        settings: how the pairs are made, JSON-able; a resumed run must have the same.
        source, licence: free text kept in the file.

    Raises:
        ValueError: `path` or its parts exist and were made with other settings.
    """

    def __init__(self, path: str | Path, settings: dict, source: str = "", licence: str = ""):
        self.path = Path(path)
        self.parts_dir = self.path.with_name(self.path.name + ".parts")
        self.features_dir = self.parts_dir / "features"  # for whoever makes the pairs
        self._attrs = {
            "schema_version": SCHEMA_VERSION,
            "settings": json.dumps(settings, sort_keys=True),
            "source": source,
            "licence": licence,
        }
        if self.path.exists():
            self._check_settings(self.path)
        for part in sorted(self.parts_dir.glob("*.h5")):
            self._check_settings(part)

    @property
    def finished(self) -> bool:
        """Whether the store itself is there: nothing is left to do."""
        return self.path.exists()

    def part_path(self, name: str) -> Path:
        """Where a part is, or will be.

        Args:
            name: of the part.
        """
        return self.parts_dir / f"{name}.h5"

    def has_part(self, name: str) -> bool:
        """Whether a part is complete.

        Args:
            name: of the part.
        """
        return self.part_path(name).exists()

    def begin(self, plan: str) -> None:
        """Say what the parts will be; only parts of the same plan are used again.

        Args:
            plan: a digest of which pairs stand in which part.

        Raises:
            ValueError: parts exist that belong to another plan.
        """
        self.parts_dir.mkdir(parents=True, exist_ok=True)
        path = self.parts_dir / "plan"
        if path.exists() and path.read_text() != plan:
            raise ValueError(
                f"{self.parts_dir}: begun when the scenes or their pairs were others; "
                "give another path or remove it"
            )
        with self._replacing(path) as temporary:
            temporary.write_text(plan)

    def write_part(
        self,
        name: str,
        records: Iterable[PairRecord],
        *,
        left_out: Sequence[str] = (),
        problems: Sequence[str] = (),
    ) -> None:
        """Write the pairs of one part; it exists afterwards, or not at all.

        Args:
            name: of the part.
            records: its pairs.
            left_out, problems: lines for `store.read_report`.

        Raises:
            ValueError: a field of a record whose shape is not the layout's.
        """
        self.parts_dir.mkdir(parents=True, exist_ok=True)
        with self._new_file(self.part_path(name)) as file:
            _write_records(file, list(records))
            _write_report(file, left_out, problems)

    def finish(
        self,
        part_names: Iterable[str],
        *,
        left_out: Sequence[str] = (),
        problems: Sequence[str] = (),
    ) -> Path:
        """Join the parts, in the order given, into the store; then remove them.

        Args:
            part_names: of the parts.
            left_out, problems: more lines, before those of the parts.
        """
        if not self.finished:
            self.parts_dir.mkdir(parents=True, exist_ok=True)
            parts = [self.part_path(name) for name in part_names]
            with self._new_file(self.path) as file:
                _join(file, parts, list(left_out), list(problems))
        shutil.rmtree(self.parts_dir, ignore_errors=True)
        return self.path

    @contextlib.contextmanager
    def _replacing(self, path: Path):
        """A temporary path among the parts that takes the place of `path` when the block ends well.
        """
        with whole_file(path, self.parts_dir) as temporary:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _new_file(self, path: Path):
        with (
            self._replacing(path) as temporary,
            # The layout of 2016: its headers and chunk indices are a tenth of the older ones.
            NewHdf5(temporary, libver=("v110", "v110")) as file,
        ):
            yield file
            file.attrs.update(self._attrs)

    def _check_settings(self, path: Path) -> None:
        with open_store(path) as file:
            found = file.attrs.get("settings")
        if found != self._attrs["settings"]:
            raise ValueError(
                f"{path}: made with settings {found}, now asked for {self._attrs['settings']}; "
                "give another path or remove it"
            )


_LAYOUT = {
    **CORE_GROUPS, **CAMERA_GROUPS, **EXTRA_GROUPS, **OPTIONAL_GROUPS,
    **{f"{SECOND}/{group}": kind for group, kind in SECOND_GROUPS.items()},
}


def _write_records(file: h5py.File, records: list[PairRecord]) -> None:
    for group in _LAYOUT:
        file.create_group(group)
    for index, record in enumerate(records):
        for group, values in _to_groups(record).items():
            shape, dtype = _LAYOUT[group]
            values = np.asarray(values, dtype)
            count = len((record.second if group.startswith(SECOND) else record).xs)
            if not shape_fits(values.shape, shape, count):
                pair = f"{record.scene}: {record.name0}, {record.name1}"
                raise ValueError(f"{pair}: {group}: found shape {values.shape}, wanted {shape}")
            packed = {"chunks": values.shape, **_PACKED} if values.nbytes >= _PACK_FROM else {}
            file[group].create_dataset(str(index), data=values, **packed)
    _write_table(
        file,
        {name: [getattr(r, name) for r in records] for name in ("scene", "name0", "name1")},
        [r.num_shared for r in records],
    )


def _write_table(file: h5py.File, names: dict[str, list[str]], num_shared: list[int]) -> None:
    table = file.create_group("pairs")
    for name, values in names.items():
        table.create_dataset(name, data=values, shape=len(values), dtype=h5py.string_dtype())
    table.create_dataset("num_shared", data=np.asarray(num_shared, np.int32))


def _to_groups(record: PairRecord) -> dict[str, np.ndarray]:
    groups = {group: getattr(record, field) for field, group in FIELD_GROUPS.items()}
    groups |= {
        "xs": record.xs[None],
        "ys": record.distances_squared[:, None],
        "ts": record.t[:, None],
        "mutuals": record.mutual,
        "sizes": [record.size0, record.size1],
    }
    for i, K in ((1, record.K0), (2, record.K1)):
        groups |= {f"cx{i}s": K[0, 2:], f"cy{i}s": K[1, 2:], f"f{i}s": [[K[0, 0], K[1, 1]]]}
    optional = {group: getattr(record, field) for field, group in OPTIONAL_FIELD_GROUPS.items()}
    groups |= {group: values for group, values in optional.items() if values is not None}
    if record.second is not None:
        rows = {group: getattr(record.second, field) for field, group in ROW_FIELDS.items()}
        rows |= {"xs": rows["xs"][None], "ys": rows["ys"][:, None]}
        groups |= {f"{SECOND}/{group}": values for group, values in rows.items()}
    return groups


def _write_report(file: h5py.File, left_out: Sequence[str], problems: Sequence[str]) -> None:
    for name, lines in (("left_out", left_out), ("problems", problems)):
        lines = list(dict.fromkeys(lines))  # one image that is missing is a problem of many parts
        file.create_dataset(name, data=lines, shape=len(lines), dtype=h5py.string_dtype())


def _join(
    file: NewHdf5, parts: list[Path], left_out: list[str], problems: list[str]
) -> None:
    names: dict[str, list[str]] = {"scene": [], "name0": [], "name1": []}
    num_shared: list[int] = []
    groups = [file.create_group(group) for group in _LAYOUT]
    for path in parts:
        with open_store(path) as part:
            offset = len(num_shared)
            for group in groups:
                # Parts begun by an earlier version lack the optional ones.
                for index, dataset in part.get(group.name, {}).items():
                    part.copy(dataset, group, name=str(offset + int(index)))
            for name, values in names.items():
                values.extend(part["pairs"][name].asstr()[:])
            num_shared.extend(part["pairs"]["num_shared"][:].tolist())
        file.check()
        report = read_report(path)
        left_out += report.left_out
        problems += report.problems
    _write_table(file, names, num_shared)
    _write_report(file, left_out, problems)
