"""Training of denoisers: batches, a curve that survives a kill, weights that load."""

import csv
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from n3match.datasets.denoising import noise as noise_models
from n3match.datasets.denoising.clean_images import CleanImages
from n3match.denoising import Denoiser
from n3match.nn import N3Net
from n3match.pipelines.cli import main
from n3match.pipelines.common.processes import Processes
from n3match.pipelines.training import run as run_module
from n3match.pipelines.training.denoiser.batches import NoisyBatches
from n3match.pipelines.training.denoiser.config import CropStage, DenoiserTraining
from n3match.pipelines.training.denoiser.task import LOSS_PIXELS, DenoiserTask
from n3match.pipelines.training.run import AveragedWeights, train
from n3match.weights import load_weights, save_weights

pytestmark = pytest.mark.arithmetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three small clean images: grey, colour, 16 bit."""
    path = tmp_path_factory.mktemp("clean")
    y, x = np.mgrid[:50, :64]
    ramp = (2 * y + x).astype(np.uint8)
    cv2.imwrite(str(path / "a.png"), ramp)
    cv2.imwrite(str(path / "b.png"), np.dstack([ramp, 255 - ramp, ramp.T.copy().T]))
    cv2.imwrite(str(path / "c.png"), (ramp.astype(np.uint16) * 257)[:30])
    return path


def tiny(folder, **fields):
    given = {
        "images": (str(folder),), "features": 4, "steps": 6, "warmup": 2,
        "crops": (CropStage(0, 12, 3), CropStage(4, 20, 2)), "local_steps": 3,
    }
    return DenoiserTraining(**given | fields)


def start_of(config):
    """A network as a run starts with it, and the task."""
    task = DenoiserTask(config)
    net = task.network()
    task.initialise(net)
    return net, task


def _curve(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_decoded_once(folder, tmp_path):
    images = CleanImages([folder], 1, tmp_path / "cache.npy")
    assert [image.shape for image in (images[i] for i in range(len(images)))] == [
        (50, 64), (50, 64), (30, 64)
    ]
    assert np.array_equal(images[0][:30], images[2])
    stamp = (tmp_path / "cache.npy").stat().st_mtime_ns
    again = CleanImages([folder], 1, tmp_path / "cache.npy")
    assert (tmp_path / "cache.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(again[1], images[1])
    colour = CleanImages([folder], 3, tmp_path / "cache.npy")  # another request: made anew
    assert colour[0].shape == (50, 64, 3)
    with pytest.raises(ValueError, match="no image has 65×65"):
        images.crops(np.random.default_rng(0), 1, 65)


def test_crops_are_turned_and_mirrored_pieces_of_the_images(folder, tmp_path):
    (tmp_path / "ramp").mkdir()
    shutil.copy(folder / "a.png", tmp_path / "ramp")
    images = CleanImages([tmp_path / "ramp"], 1, tmp_path / "cache.npy")
    crops = images.crops(np.random.default_rng(0), 40, 50)
    pieces = [np.round(crop[0] * 255) for crop in crops]
    # The ramp grows by 2 along one side and by 1 along the other, up or down: eight ways.
    slopes = {(p[1, 0] - p[0, 0], p[0, 1] - p[0, 0]) for p in pieces}
    assert slopes == {(a * s, b * t) for a, b in ((1, 2), (2, 1)) for s in (1, -1) for t in (1, -1)}


def test_folders_are_drawn_by_their_weights(tmp_path):
    for level, sizes in ((10, (40, 40, 40)), (200, (12,))):
        (tmp_path / str(level)).mkdir()
        for number, size in enumerate(sizes):
            image = np.full((size, size), level, np.uint8)
            cv2.imwrite(str(tmp_path / str(level) / f"{number}.png"), image)
    folders = [tmp_path / "10", tmp_path / "200"]
    shares = []
    for weights in ((), (1.0, 3.0)):
        images = CleanImages(folders, 1, tmp_path / "cache.npy", weights)
        crops = images.crops(np.random.default_rng(0), 400, 10)
        shares.append((crops[:, 0, 0, 0] > 0.5).mean())
    assert shares[0] < 0.08 and shares[1] == pytest.approx(0.75, abs=0.06)
    with pytest.raises(ValueError, match=r"no image of .*200 has 20×20"):
        images.crops(np.random.default_rng(0), 1, 20)
    with pytest.raises(ValueError, match="images: 1 weights for 2"):
        tiny(tmp_path, images=tuple(map(str, folders)), image_weights=(1.0,))


def test_gaussian_noise_has_the_sigma_of_its_map():
    clean = np.full((50, 1, 40, 40), 0.9, np.float32)
    crops = noise_models.gaussian(clean, np.random.default_rng(0), 0, 75, with_map=True)
    found = (crops.noisy - clean).std((1, 2, 3))
    np.testing.assert_allclose(found, crops.maps[:, 0], rtol=0.1)
    assert crops.maps.min() * 255 < 5 and 70 < crops.maps.max() * 255 < 75
    assert crops.noisy.max() > 1  # not clipped


def test_raw_noise_has_the_variance_of_its_maps():
    clean = np.full((3, 1, 300, 300), 0.4, np.float32)
    levels = [(1e-3, 1e-4), (1e-2, 1e-4), (1e-4, 1e-3)]
    crops = noise_models.poisson_gaussian(clean, np.random.default_rng(0), levels)
    for noisy, (a, b) in zip(crops.noisy, levels):
        assert (noisy - 0.4).var() == pytest.approx(a * 0.4 + b, rel=0.03)
    assert crops.noisy.min() >= 0 and crops.noisy.max() <= 1
    levels = noise_models.draw_levels(np.random.default_rng(0), 2000)
    assert 1e-4 <= levels[:, 0].min() < 2e-4 and 0.08 < levels[:, 0].max() <= 0.1
    ratio = np.log10(levels[:, 1] / levels[:, 0])
    assert -3.61 < ratio.min() < -3.5 and -1.1 < ratio.max() < -0.99


def test_bayer_planes_are_samples_of_their_colour():
    colour = np.stack([np.full((8, 8), v, np.float32) for v in (0.2, 0.6, 0.8)])[None]
    planes = noise_models.bayer_planes(colour, np.random.default_rng(0))[0]
    assert planes.shape == (4, 4, 4)
    assert (planes[1:3] == np.float32(0.6)).all()
    red, blue = planes[0, 0, 0] / 0.2, planes[3, 0, 0] / 0.8
    assert 0.39 < red < 0.71 and abs(red - blue) < 0.021
    # All four pixels of each cell are used: a mosaic whose pixels differ gives four planes.
    y, x = np.mgrid[:6, :6] % 2
    numbered = np.stack([2 * y + x] * 3).astype(np.float32)[None] + 1
    for seed in range(4):
        planes = noise_models.bayer_planes(numbered, np.random.default_rng(seed))[0]
        greens = {planes[1, 0, 0], planes[2, 0, 0]}
        assert greens in ({1.0, 4.0}, {2.0, 3.0})


@pytest.mark.parametrize(
    ("fields", "channels", "maps"),
    [({}, 1, 0), ({"sigma": (0, 75)}, 1, 1), ({"channels": 3}, 3, 0),
     ({"noise": "raw"}, 1, 2), ({"noise": "bayer"}, 4, 2)],
)
def test_batches_depend_on_seed_and_step_alone(folder, tmp_path, fields, channels, maps):
    config = tiny(folder, **fields)
    source = NoisyBatches(config, tmp_path / "cache.npy")
    for step, size, count in ((3, 12, 3), (4, 20, 2)):
        noisy, clean = source[step].values()
        assert noisy.shape == (count, channels + maps, size, size)
        assert clean.shape == (count, channels, size, size)
        assert torch.equal(source[step]["noisy"], noisy)
        shares = [
            NoisyBatches(config, tmp_path / "cache.npy", rank, 2)[step]["noisy"] for rank in (0, 1)
        ]
        assert torch.equal(shares[0], noisy[::2]) and torch.equal(shares[1], noisy[1::2])
    assert not torch.equal(source[1]["noisy"], source[2]["noisy"])
    other = NoisyBatches(replace(config, seed=1), tmp_path / "cache.npy")
    assert not torch.equal(other[1]["noisy"], source[1]["noisy"])


@pytest.mark.parametrize("network", ["n3net", "concrete", "dncnn-17"])
def test_resumed_run_gives_the_same_curve_and_weights(folder, tmp_path, network):
    config = tiny(folder, network=network, sigma=(0, 75))
    whole = train(DenoiserTask(config), tmp_path / "whole", save_every=2, device="cpu")

    class Dies(DenoiserTask):
        def losses(self, net, batch, step, processes):
            if step == 5:
                raise KeyboardInterrupt
            return super().losses(net, batch, step, processes)

    with pytest.raises(KeyboardInterrupt):
        train(Dies(config), tmp_path / "cut", save_every=2, device="cpu")
    if network == "concrete":  # as version 0.1 wrote it
        state = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)
        progress = state.pop("progress")
        state |= {name: progress[name] for name in ("step", "skipped")}
        torch.save(state, tmp_path / "cut" / "state.pt")
    resumed = train(DenoiserTask(config), tmp_path / "cut", save_every=2, device="cpu")
    assert _curve(tmp_path / "cut") == _curve(tmp_path / "whole")
    a, b = (load_weights(path)[2] for path in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("killed_by", ["save_weights", "save_state"])
def test_weights_are_whole_whichever_half_of_saving_was_not_done(
    folder, tmp_path, monkeypatch, killed_by
):
    config = tiny(folder)
    whole = train(DenoiserTask(config), tmp_path / "whole", save_every=4, device="cpu")
    real, calls = getattr(run_module, killed_by), []

    def dies_at_the_end(*arguments, **named):
        calls.append(1)
        if len(calls) > config.steps // 4:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(run_module, killed_by, dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        train(DenoiserTask(config), tmp_path / "cut", save_every=4, device="cpu")
    monkeypatch.setattr(run_module, killed_by, real)
    path = train(DenoiserTask(config), tmp_path / "cut", save_every=4, device="cpu")
    assert load_weights(path)[2].keys() == load_weights(whole)[2].keys()
    for name, tensor in load_weights(whole)[2].items():
        assert torch.equal(load_weights(path)[2][name], tensor)


def test_a_finished_run_writes_lost_weights_again(folder, tmp_path):
    config = tiny(folder, steps=2)
    path = train(DenoiserTask(config), tmp_path / "run", device="cpu")
    before = load_weights(path)[2]
    path.unlink()
    again = load_weights(train(DenoiserTask(config), tmp_path / "run", device="cpu"))[2]
    assert before.keys() == again.keys()
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_blocks_are_learned_after_the_local_networks(folder, tmp_path):
    nets = {}
    for steps in (3, 4):
        config = tiny(folder, steps=steps, local_steps=3, ema=0.0)
        path = train(DenoiserTask(config), tmp_path / str(steps), device="cpu")
        nets[steps] = load_weights(path)[2]
    torch.manual_seed(0)
    start = start_of(tiny(folder))[0].state_dict()
    block = [n for n in start if n.startswith("blocks.") and n.endswith("weight")]
    assert all(torch.equal(nets[3][n], start[n]) for n in block)
    behind = "local_networks.1.layers.0.weight"
    assert not nets[3][behind][:, 8:].any() and nets[4][behind][:, 8:].any()


def test_kept_weights_are_a_running_mean():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    averaged = AveragedWeights(net, 0.5)
    torch.nn.init.ones_(net.weight)
    averaged.update(net, 0)  # memory 0.1 at the first step
    assert averaged.state["weight"].item() == pytest.approx(0.9)
    averaged.update(net, 1000)
    assert averaged.state["weight"].item() == pytest.approx(0.95)


def test_it_learns_and_the_command_writes_weights_that_denoise(folder, tmp_path, capsys):
    arguments = [
        "train-denoiser", tmp_path / "run", "--images", folder, "--crops", "16x8", "--steps", "80",
        "--warmup", "5", "--features", "8", "--local-steps", "78", "--sigma", "50",
        "--rate", "1e-2", "--ema", "0.8", "--momentum", "0.1", "--precision", "bfloat16",
    ]
    assert main([str(word) for word in arguments]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    gains = [float(row["gain"]) for row in _curve(tmp_path / "run")]
    assert min(gains[-5:]) > 3 > 0 > max(gains[:5])
    net = Denoiser.from_pretrained(path)
    assert net.config.sigma == (50, 50)


def test_hard_blocks_are_guided_by_a_trained_network(folder, tmp_path):
    plain = DenoiserTask(tiny(folder, network="dncnn-17", steps=1))
    guide = train(plain, tmp_path / "guide", device="cpu")
    config = tiny(folder, network="knn-denoised", guide=str(guide), steps=4)
    net = load_weights(train(DenoiserTask(config), tmp_path / "run", device="cpu"))[2]
    wanted = load_weights(guide)[2]
    for name, t in wanted.items():
        assert torch.equal(net[name.replace("local_networks.0.", "guide.")], t)
    with pytest.raises(ValueError, match="guide"):
        tiny(folder, network="knn-denoised")
    with pytest.raises(ValueError, match="guide"):
        tiny(folder, guide=str(guide))


def test_a_range_starts_from_weights_for_one_level(folder, tmp_path):
    """As the network that it starts from, whatever the map says."""
    torch.manual_seed(0)
    one = N3Net(tiny(folder).net).eval()
    save_weights(tmp_path / "one.safetensors", one)
    config = tiny(folder, sigma=(0.0, 75.0), initial=str(tmp_path / "one.safetensors"))
    net = start_of(config)[0].eval()
    noisy = torch.rand(2, 1, 12, 15)
    for level in (0.0, 0.3):
        x = torch.cat([noisy, torch.full_like(noisy, level)], 1)
        torch.testing.assert_close(net(x), one(noisy))
    guided = N3Net(replace(one.config, selection="knn", matching="denoised"))
    save_weights(tmp_path / "guided.safetensors", guided)
    given = replace(config, network="knn-denoised", initial=str(tmp_path / "guided.safetensors"))
    x = torch.cat([noisy, torch.full_like(noisy, 0.3)], 1)
    torch.testing.assert_close(start_of(given)[0].eval()(x), guided.eval()(noisy))
    with pytest.raises(ValueError, match=r"initial: .* doesn't fit"):
        start_of(tiny(folder, features=5, initial=config.initial))


@pytest.mark.parametrize("network", ["n3net", "dncnn-17", "knn-input", "n3net-fast"])
def test_colours_start_from_weights_for_grey_images(folder, tmp_path, network):
    """On a grey image as the network that it starts from."""
    torch.manual_seed(0)
    grey = N3Net(tiny(folder, network=network, sigma=(0.0, 75.0)).net).eval()
    save_weights(tmp_path / "grey.safetensors", grey)
    net, _ = start_of(
        tiny(folder, network=network, sigma=(0.0, 75.0), channels=3,
             initial=str(tmp_path / "grey.safetensors"))
    )
    image, sigma = torch.rand(2, 1, 24, 27), torch.full((2, 1, 24, 27), 0.1)
    colour = torch.cat([image.expand(-1, 3, -1, -1), sigma], 1)
    wanted = grey(torch.cat([image, sigma], 1)).expand(-1, 3, -1, -1)
    torch.testing.assert_close(net.eval()(colour), wanted, atol=1e-5, rtol=0)
    assert not torch.equal(net(torch.rand_like(colour))[:, 0], net(torch.rand_like(colour))[:, 1])


def test_a_network_learns_from_another(folder, tmp_path):
    """The loss is a mean of the distances to the clean image and to what the teacher gives."""
    torch.manual_seed(0)
    teacher = N3Net(tiny(folder, sigma=(0.0, 50.0)).net).eval()
    save_weights(tmp_path / "teacher.safetensors", teacher)
    options = {
        "network": "n3net-fast", "sigma": (0.0, 50.0), "local_steps": 0,
        "crops": (CropStage(0, 24, 2),), "teacher": str(tmp_path / "teacher.safetensors"),
    }
    losses = {}
    for share in (0.25, 1.0):
        task = DenoiserTask(tiny(folder, **options, teacher_share=share))
        torch.manual_seed(1)
        net = task.network()
        batch = task.batches(tmp_path, Processes())[0]
        losses[share], numbers = task.losses(net, batch, 0, Processes())
    out, taught = net(batch["noisy"]), teacher(batch["noisy"])
    per_crop = [(out - aim).square().mean((1, 2, 3)) for aim in (batch["clean"], taught)]
    weights = task.weights(batch["noisy"])
    clean, known = (0.5 * LOSS_PIXELS * (e * weights).mean().item() for e in per_crop)
    assert losses[1.0].item() == pytest.approx(known, rel=1e-3)
    assert losses[0.25].item() == pytest.approx(0.75 * clean + 0.25 * known, rel=1e-3)
    # What is reported stays the distance to the clean image.
    error = (out - batch["clean"]).square().mean().item()
    assert numbers["psnr"].item() == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert task.notes()["teacher"] == "teacher.safetensors"
    path = train(task, tmp_path / "run", device="cpu")
    assert load_weights(path)[1]["scale"] == 2
    for fields, word in (
        ({"channels": 3}, "teacher: .* is for 1 channels"),
        ({"sigma": (0.0, 75.0)}, "is for noise"),
    ):
        wrong = DenoiserTask(tiny(folder, **options | fields))
        with pytest.raises(ValueError, match=word):
            wrong.batches(tmp_path, Processes())
    with pytest.raises(ValueError, match="teacher_share"):
        tiny(folder, teacher_share=0.0)


def test_levels_of_a_range_count_alike(folder, tmp_path):
    """Errors that grow as σ + 2: each crop has the same share of the loss."""
    net, task = start_of(tiny(folder, sigma=(0.0, 50.0)))
    sigma = torch.tensor([5.0, 25.0, 50.0])
    maps = (sigma / 255)[:, None, None, None].expand(-1, 1, 4, 4)
    noisy = torch.cat([torch.rand(3, 1, 4, 4), maps], 1)
    torch.testing.assert_close(task.weights(noisy) * (sigma + 2), torch.full((3,), 25.0))
    batch = task.batches(tmp_path, Processes())[0]
    with torch.no_grad():
        errors = (net(batch["noisy"], neighbours=False) - batch["clean"]).square().mean((1, 2, 3))
    wanted = 0.5 * LOSS_PIXELS * (errors * task.weights(batch["noisy"])).mean()
    loss, numbers = task.losses(net, batch, 0, Processes())
    assert loss.item() == numbers["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    one = DenoiserTask(tiny(folder))
    assert torch.equal(one.weights(noisy[:, :1]), torch.ones(3))


@pytest.mark.parametrize("network", ["n3net", "knn-denoised"])
def test_norms_are_frozen_in_the_last_steps(folder, tmp_path, network):
    """Their statistics stay, and crops are normalised by these; what is learned goes on."""
    train(DenoiserTask(tiny(folder, network="dncnn-17")), tmp_path / "guide")
    guide = str(tmp_path / "guide" / "denoiser.safetensors") if network != "n3net" else ""
    config = tiny(folder, network=network, guide=guide, frozen_steps=2, local_steps=0)
    states = []

    class Watched(DenoiserTask):
        def losses(self, net, batch, step, processes):
            found = super().losses(net, batch, step, processes)
            self.net = net
            states.append({n: t.clone() for n, t in net.state_dict().items()})
            return found

    run = Watched(config)
    train(run, tmp_path / "run", device="cpu")
    for step in range(1, config.steps):
        moved = {
            n.rpartition(".")[2] for n, t in states[step].items()
            if not torch.equal(t, states[step - 1][n]) and "distance_scale" not in n
        }
        assert "weight" in moved
        assert ("running_mean" in moved) == (step < config.steps - 2)
    x = run.batches(tmp_path / "run", Processes())[0]["noisy"]
    found = run.net.local_networks[0](x)
    torch.testing.assert_close(run.net.local_networks.eval()[0](x), found)


def test_other_options_and_foreign_states_are_refused(folder, tmp_path):
    train(DenoiserTask(tiny(folder, steps=1)), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="run with other options"):
        train(DenoiserTask(tiny(folder, steps=1, seed=5)), tmp_path, device="cpu")
    (tmp_path / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        train(DenoiserTask(tiny(folder, steps=1)), tmp_path, device="cpu")


def test_learning_rate_warms_up_and_decays(folder):
    config = tiny(folder, steps=100, warmup=10)
    rates = [config.learning_rate(step) for step in (0, 9, 99)]
    assert rates[:2] == pytest.approx([1e-4, 1e-3]) and rates[2] < 2e-5


@pytest.mark.parametrize(
    "fields",
    [
        {"network": "x"}, {"noise": "x"}, {"images": ()}, {"sigma": (9, 3)}, {"channels": 2},
        {"channels": 3, "noise": "raw"}, {"steps": 0}, {"ema": 1.0}, {"precision": "half"},
        {"local_steps": -1}, {"frozen_steps": -1},
        {"crops": ()}, {"crops": (CropStage(5, 40, 1),)}, {"crops": (CropStage(0, 9, 1),)},
    ],
)
def test_impossible_configurations(folder, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        tiny(folder, **fields)


def test_crop_stages_are_read():
    assert CropStage.parse("80x8@2000") == CropStage(2000, 80, 8)
    assert CropStage.parse("48x16") == CropStage(0, 48, 16)
    with pytest.raises(ValueError, match="crops"):
        CropStage.parse("80")
