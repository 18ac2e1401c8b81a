"""Pairs with known truth, in stores, evaluated; a filter that isn't trained."""

import argparse
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from n3match.datasets.pairs.store import PairRecord
from n3match.datasets.pairs.store_writer import PairStoreWriter
from n3match.nn import MatchFilter, MatchFilterConfig
from n3match.pipelines.evaluation.evaluate_pose import add_arguments
from n3match.pipelines.evaluation.pose_evaluation import evaluate_pose
from n3match.weights import save_weights

SIZE = (1280, 960)
K = np.array([[1000.0, 0, 640], [0, 1000, 480], [0, 0, 1]])
R_TRUE = Rotation.from_rotvec([0.03, 0.2, -0.05]).as_matrix()
T_TRUE = np.array([-0.95, 0.1, 0.2]) / np.linalg.norm([-0.95, 0.1, 0.2])


def make_record(true=100, false=0, turned_deg=0.0, seed=0, name="0") -> PairRecord:
    """Exact matches, then wrong ones; the stored rotation may be turned away from the one seen.

    True matches are mutual with ratio 0.5; wrong ones, in thirds: mutual with ratio 0.85, mutual
    with 0.95, not mutual with 0.7. Labels go with the matches, not with the stored pose.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform([-4, -3, 6], [4, 3, 12], size=(true, 3))
    seen = [points, points @ R_TRUE.T + T_TRUE]
    pixels = [(p / p[:, 2:]) @ K.T for p in seen]
    px0, px1 = (
        np.concatenate([p[:, :2], rng.uniform(0, SIZE, (false, 2))]) for p in pixels
    )
    kind = np.concatenate([np.full(true, -1), np.arange(false) % 3])
    n = true + false
    turn = Rotation.from_rotvec([0, 0, np.radians(turned_deg)]).as_matrix()
    shapes = np.stack([np.full(n, 4.0), np.full(n, 90.0)], axis=1)
    calibrated = [(p - K[:2, 2]) / 1000 for p in (px0, px1)]
    return PairRecord(
        scene="toy",
        name0=f"{name}a",
        name1=f"{name}b",
        num_shared=true,
        points0=px0,
        points1=px1,
        xs=np.concatenate(calibrated, axis=1),
        distances_squared=np.where(kind < 0, 0.0, 1.0),
        R=R_TRUE @ turn,
        t=T_TRUE,
        ratio=np.choose(kind + 1, [0.5, 0.85, 0.95, 0.7]),
        mutual=kind < 2,
        descriptor_distance=np.full(n, 0.3),
        index0=np.arange(n),
        index1=np.arange(n),
        sizes_angles0=shapes,
        sizes_angles1=shapes,
        K0=K,
        K1=K,
        distortion0=np.zeros(4),
        distortion1=np.zeros(4),
        size0=SIZE,
        size1=SIZE,
    )


def write_store(path, records):
    writer = PairStoreWriter(path, {"made": "by a test"})
    writer.write_part("all", records)
    return writer.finish(["all"])


def run(store, filters, estimators, **options):
    return evaluate_pose(
        [store], filters=filters, estimators=estimators, progress=False, **options
    )


def save_net(path, seed=0):
    """Untrained, but its logits on 80 true and 60 wrong matches are of both signs."""
    torch.manual_seed(seed)
    config = MatchFilterConfig(
        width=16, blocks=3, n3_after=(1,), embedding_width=8, embedding_channels=4,
        side_info=("ratio", "mutual"),
    )
    net = MatchFilter(config).eval()
    record = make_record(true=80, false=60)
    columns = (record.xs[:, :2], record.xs[:, 2:], np.stack([record.ratio, record.mutual], 1))
    with torch.no_grad():
        logits = net.logits(*(torch.tensor(c[None], dtype=torch.float32) for c in columns))
        net.trunk.head.bias -= logits.median()
    save_weights(path, net)
    return path


def timeless(row):
    return replace(row, read_ms=0, filter_ms=0, estimator_ms=0)


def table_rows(report):
    """{(title of the table, filter): its other cells}"""
    rows, title = {}, ""
    for line in report.splitlines():
        if line.endswith(":"):
            title = line
        elif line.startswith("|") and not line.startswith(("| ---", "| filter")):
            label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[title, label] = cells
    return rows


def parse(*arguments):
    """Arguments of `n3match evaluate-pose`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(a) for a in arguments])
