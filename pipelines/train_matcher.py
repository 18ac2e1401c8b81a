"""`n3match train-matcher`: trains a match filter on stored real pairs and generated geometry.

A run lives in one folder: `state.pt` (everything needed to go on), `log.csv`, and at the end
`filter.safetensors` + `filter.json`. Started again with the same options, it goes on where it was:
batch number s depends on the seed and s alone, so a killed run gives the same curve.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from n3match.datasets.augment import Augmentation
from n3match.datasets.batches import GENERATED_AUGMENTATION, MixedPairs
from n3match.datasets.pair_dataset import PairDataset
from n3match.datasets.synthetic import SyntheticPairs
from n3match.geometry import weighted_eight_point
from n3match.nn import ClassifierConfig, MatchClassifier
from n3match.nn.classifier import SHAPE_COLUMNS
from n3match.nn.refinement import EVIDENCE_COLUMNS
from n3match.pipelines.checkpoint import load_checkpoint, save_checkpoint
from n3match.pipelines.losses import classification_loss, essential_loss, geometric_loss
from n3match.weights import load_weights, save_weights

SIDE_INFORMATION = ("ratio", "mutual")  # columns of `side` in a batch
NETWORKS = {"n3": (6,), "cnnet": ()}  # blocks that an N³ block follows

# Options of the run that are plain numbers, each a flag of the same name.
NUMBERS = (
    "steps", "batch", "min_matches", "max_matches", "drop_side", "drop_shape", "rate", "warmup",
    "label_threshold", "balance", "not_mutual", "essential_weight", "geometric_weight",
    "essential_after", "clip", "seed",
)


@dataclass(frozen=True)
class TrainingConfig:
    """What determines a run's curve."""

    network: str = "n3"
    refine: bool = False  # a second pass over the better matches
    initial: str = ""  # weights to start from: a shipped name or a file; "": random
    pairs: tuple[str, ...] = ()  # HDF5 stores of real pairs
    generated: float = 0.5  # share of generated pairs in a batch
    steps: int = 4000
    batch: int = 8  # pairs per step
    min_matches: int = 500  # per pair; each batch draws a number in between
    max_matches: int = 2000
    drop_side: float = 0.2  # share of pairs whose side information is withheld
    drop_shape: float = 0.2  # share of pairs whose keypoint shapes are withheld
    rate: float = 1e-3
    warmup: int = 200  # steps of linear warm-up; a cosine follows
    label_threshold: float = 1e-4  # squared symmetric epipolar distance of a right match
    balance: float = 1.0  # of right and wrong matches in the loss, see losses.py; 1: published
    not_mutual: float = 1.0  # weight in the loss of right matches that aren't mutual
    essential_weight: float = 0.1  # of the distance of the essential matrices (published)
    geometric_weight: float = 0.0  # of the virtual matches' distances
    essential_after: int = 1500  # step from which these two count
    clip: float = 1.0  # largest gradient norm
    seed: int = 0

    def __post_init__(self):
        if self.network not in NETWORKS:
            raise ValueError(f"network must be one of {tuple(NETWORKS)}, got {self.network!r}")
        if not 0.0 <= self.generated <= 1.0:
            raise ValueError(f"generated must lie in 0 … 1, got {self.generated}")
        if not self.pairs and self.generated < 1.0:
            raise ValueError("pairs: no stores given; name some, or set generated to 1")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to 1 % of the rate."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def importance(batch: dict[str, Tensor], positive: Tensor, config: TrainingConfig) -> Tensor:
    """Less than 1 for right matches that aren't mutual, in pairs where that is known.

    Wrong matches fall near their epipolar line by chance, and few of those are mutual.
    """
    mutual = batch["side"][..., SIDE_INFORMATION.index("mutual")] > 0
    known = mutual.any(1, keepdim=True)
    doubtful = positive & ~mutual & known
    return torch.ones_like(batch["distances"]).masked_fill(doubtful, config.not_mutual)


def essential_of(batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    weights = torch.relu(torch.tanh(logits))
    return weighted_eight_point(batch["points0"], batch["points1"], weights, normalize=True)


def losses(net: MatchClassifier, batch: dict[str, Tensor], config: TrainingConfig, step: int):
    """Total loss and the numbers for the log."""
    out = net(batch["points0"], batch["points1"], batch["side"], batch["mask"], batch["shape"])
    positive = (batch["distances"] < config.label_threshold) & batch["mask"]
    classification = classification_loss(
        out.logits, positive, batch["mask"], config.balance, importance(batch, positive, config)
    )
    total, essential = classification, classification.new_zeros(())
    if net.config.refine:
        total = total + classification_loss(
            out.first_logits, positive, batch["mask"], config.balance,
            importance(batch, positive, config),
        )
    geometric = torch.zeros_like(essential)
    if step >= config.essential_after:
        # Fewer than eight right matches don't determine E: nothing to learn from.
        usable = positive.sum(1) >= 8
        if config.essential_weight > 0:
            essential = essential_loss(out.essential, batch["E"], usable)
            total = total + config.essential_weight * essential
        if config.geometric_weight > 0:
            seen = (batch["points0"], batch["points1"], batch["E"], positive, usable)
            geometric = geometric_loss(out.essential, *seen)
            total = total + config.geometric_weight * geometric
            if net.config.refine:  # what the second pass sees of each match comes of this one
                first = essential_of(batch, out.first_logits)
                total = total + config.geometric_weight * geometric_loss(first, *seen)
    with torch.no_grad():
        kept = (out.logits > 0) & batch["mask"]
        right = (kept & positive).sum()
        numbers = {
            "classification": classification.item(),
            "essential": essential.item(),
            "geometric": geometric.item(),
            "precision": (right / kept.sum().clamp(min=1)).item(),
            "recall": (right / positive.sum().clamp(min=1)).item(),
        }
    return total, numbers


def make_batches(config: TrainingConfig) -> MixedPairs:
    """The run's source of batches; real pairs are read into memory once."""
    real = scenes = None
    if config.pairs:
        store = PairDataset(list(config.pairs))
        # One pair is read in 2 ms, a batch is needed every few hundred: worth keeping.
        real = [store[i] for i in range(len(store))]
        scenes = list(store.scenes)
    generated = None
    if config.generated > 0:
        generated = SyntheticPairs(
            config.seed, num_matches=(config.max_matches, config.max_matches)
        )
    return MixedPairs(
        real,
        generated,
        batch_size=config.batch,
        num_matches=(config.min_matches, config.max_matches),
        synthetic_share=config.generated,
        seed=config.seed,
        augmentation=Augmentation(drop_side=config.drop_side, drop_shape=config.drop_shape),
        synthetic_augmentation=replace(
            GENERATED_AUGMENTATION, drop_side=config.drop_side, drop_shape=config.drop_shape
        ),
        scenes=scenes,
    )


def train(config: TrainingConfig, folder: Path, *, save_every: int = 100, device=None) -> Path:
    """Runs, or goes on with, the training in `folder`; returns the path of the weights.

    Raises:
        ValueError: where the folder holds a run with other options.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    # Trained weights hold tiny numbers; denormal arithmetic is many times slower on a CPU.
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    net = MatchClassifier(
        ClassifierConfig(
            n3_after=NETWORKS[config.network],
            side_information=SIDE_INFORMATION,
            keypoint_shape=True,
            refine=config.refine,
        )
    )
    if config.initial:
        _load_initial(net, config.initial)
    net = net.to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.rate)
    batches = make_batches(config)
    start, skipped = 0, 0
    state_path = folder / "state.pt"
    if state_path.exists():
        state = load_checkpoint(state_path, device)
        if state["config"] != json.dumps(asdict(config)):
            raise ValueError(
                f"{folder} holds a run with other options: {state['config']}; "
                "give the same ones, or another folder"
            )
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        start, skipped = state["step"], state["skipped"]
    _cut_log(folder / "log.csv", start)

    def save(step: int) -> None:
        save_checkpoint(
            state_path,
            {
                "config": json.dumps(asdict(config)),
                "net": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "skipped": skipped,
            },
        )

    began = time.monotonic()
    net.train()
    # The next batches are made by a thread while the network is busy.
    stream = batches.batches(start)
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = {k: v.to(device) for k, v in next(stream).items()}
        total, numbers = losses(net, batch, config, step)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        if bool(torch.isfinite(norm)):
            optimizer.step()
        else:
            skipped += 1
            if skipped > 100:
                raise RuntimeError(f"training diverged: {skipped} steps without finite gradients")
        _log(folder / "log.csv", step, {**numbers, "gradient_norm": norm.item()})
        if (step + 1) % save_every == 0 or step + 1 == config.steps:
            save(step + 1)
        if (step + 1) % 20 == 0 or step + 1 == config.steps:
            left = (time.monotonic() - began) / (step + 1 - start) * (config.steps - step - 1)
            shown = " ".join(f"{k} {v:.4f}" for k, v in numbers.items())
            print(f"step {step + 1}/{config.steps} {shown} ({left / 60:.0f} min left)", flush=True)
    stream.close()
    net.eval()
    path = folder / "filter.safetensors"
    # Only names: where files lay on the machine that trained is nobody's business.
    notes = asdict(config) | {
        "pairs": [Path(store).name for store in config.pairs],
        "initial": Path(config.initial).name,
    }
    save_weights(path, net, training=notes)
    return path


def _load_initial(net: MatchClassifier, name_or_path: str) -> None:
    _, described, state = load_weights(name_or_path)
    found = ClassifierConfig(**described)
    if not found.keypoint_shape:
        # Weights that don't know of shapes yet: they start by not looking at them.
        found = replace(found, keypoint_shape=True)
        _add_columns(state, "trunk.lift.weight", SHAPE_COLUMNS)
    if net.config.refine and not found.refine:
        # The second pass starts as a copy of the first.
        found = replace(found, refine=True)
        trunk = {name: t for name, t in state.items() if name.startswith("trunk.")}
        state |= {f"refinement.{name}": t.clone() for name, t in trunk.items()}
        _add_columns(state, "refinement.trunk.lift.weight", EVIDENCE_COLUMNS)
    if found != net.config:
        raise ValueError(
            f"initial: {name_or_path} is a network of {described}, {asdict(net.config)} wanted"
        )
    net.load_state_dict(state)


def _add_columns(state: dict[str, Tensor], name: str, count: int) -> None:
    """More input columns for a layer, which it doesn't look at as yet."""
    weight = state[name]
    state[name] = torch.cat([weight, weight.new_zeros(len(weight), count)], 1)


def _cut_log(path: Path, start: int) -> None:
    """Drops rows of steps that will be run again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if row and int(row[0]) < start]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    temporary.replace(path)


def _log(path: Path, step: int, numbers: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *numbers])
        writer.writerow([step, *(f"{v:.6g}" for v in numbers.values())])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = TrainingConfig(generated=1.0)
    parser.add_argument("out", type=Path, help="folder of the run; an existing run goes on")
    parser.add_argument(
        "--pairs", nargs="*", default=[], metavar="H5", help="stores written by build-pairs"
    )
    parser.add_argument("--network", choices=tuple(NETWORKS), default=default.network)
    parser.add_argument(
        "--refine", action="store_true", help="add a second pass over the better matches"
    )
    parser.add_argument(
        "--initial", default="", metavar="WEIGHTS",
        help="fine-tune these weights (a shipped name or a file) instead of starting at random",
    )
    parser.add_argument(
        "--generated", type=float, default=None,
        help="share of generated pairs (default: 0.5 with --pairs, else 1)",
    )
    for name in NUMBERS:
        value = getattr(default, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")


def main(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    generated = arguments.generated
    if generated is None:
        generated = 0.5 if arguments.pairs else 1.0
    config = TrainingConfig(
        pairs=tuple(arguments.pairs),
        generated=generated,
        network=arguments.network,
        refine=arguments.refine,
        initial=arguments.initial,
        **{name: getattr(arguments, name) for name in NUMBERS},
    )
    print(train(config, arguments.out), file=sys.stdout)
    return 0
