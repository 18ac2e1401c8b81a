"""The denoising networks: every row of the ablation, shapes, stages and their reach."""

from dataclasses import replace

import pytest
import torch

from n3match.nn import PRESETS, DnCNN, ImageN3Block, N3Net, N3NetConfig

pytestmark = pytest.mark.arithmetic

SMALL = {
    "features": 8, "block_channels": 2, "neighbours": 3, "patch_size": 4, "stride": 2,
    "window": 3, "embedding_features": 8, "embedding_channels": 3,
}


def small(name, **fields):
    config = PRESETS[name]
    depth = min(config.depth, 4)
    return N3Net(replace(config, **SMALL, depth=depth, guide_depth=3, **fields))


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes(name):
    net = N3Net(PRESETS[name])
    count = sum(p.numel() for p in net.parameters() if p.requires_grad)
    if name.startswith("dncnn"):
        inner = 9 * 64 * 64 + 2 * 64
        assert count == (9 * 64 + 64) + (net.config.depth - 2) * inner + (9 * 64 + 1)
    if name == "n3net":
        assert count == pytest.approx(710_000, rel=0.01)  # as published
    assert len(net.blocks) == {"n3net": 2, "n3net-2": 1, "concrete": 2, "n3net-fast": 2}.get(
        name, 2 * name.startswith("knn")
    )


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("channels", "maps"), [(1, ()), (3, ("sigma",)), (4, ("a", "b"))])
def test_every_preset_trains(name, channels, maps):
    torch.manual_seed(0)
    net = small(name, channels=channels, maps=maps).train()
    x = torch.rand(2, channels + len(maps), 21, 26)
    y = net(x)
    assert y.shape == (2, channels, 21, 26)
    y.square().sum().backward()
    wanted = {n for n, p in net.named_parameters() if p.requires_grad}
    moved = {n for n, p in net.named_parameters() if p.grad is not None}
    assert moved == wanted
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(("height", "width"), [(20, 24), (17, 23)])
def test_with_a_scale_pixels_go_through_as_planes(height, width):
    """Here with local networks that leave their planes as they are."""
    net = small("dncnn-17", scale=2, channels=3, maps=("sigma",)).eval()
    torch.nn.init.zeros_(net.local_networks[0].layers[-1].weight)
    image = torch.rand(2, 3, height, width)
    x = torch.cat([image, torch.full_like(image[:, :1], 0.1)], 1)
    planes = net.planes_of(x)
    assert planes.shape == (2, 13, -(-height // 2), -(-width // 2))
    assert torch.equal(planes[:, 1, :, :-1], image[:, 0, ::2, 1::2][..., : planes.shape[3] - 1])
    assert bool((planes[:, 12] == torch.tensor(0.1)).all())
    assert torch.equal(net(x), image)


def test_concrete_draws_noise_while_training_only():
    torch.manual_seed(0)
    net, x = small("concrete"), torch.rand(1, 1, 20, 20)
    net.train()
    torch.manual_seed(1)
    a, b = net(x), net(x)
    assert not torch.equal(a, b)
    torch.manual_seed(1)
    torch.testing.assert_close(net(x), a, rtol=0, atol=0)
    net.eval()
    assert torch.equal(net(x), net(x))


def test_noise_is_measured_by_scaled_distances():
    """However large embeddings are, noise has the same say; without it the block is N³'s."""
    torch.manual_seed(0)
    block = ImageN3Block(2, 3, patch_size=4, stride=2, window=3, selection="concrete").double()
    x = torch.rand(2, 2, 12, 12, dtype=torch.float64)
    block.distance_scale.eps = 0.0
    last = [m for m in block.embedding.modules() if isinstance(m, torch.nn.Conv2d)][-1]

    def with_noise():
        torch.manual_seed(1)
        return block.train()(x)

    noisy = with_noise()
    quiet = ImageN3Block(2, 3, patch_size=4, stride=2, window=3).double().eval()
    quiet.load_state_dict(block.state_dict())
    torch.testing.assert_close(block.eval()(x), quiet(x))
    assert (noisy - quiet.train()(x)).abs().max() > 0.05
    with torch.no_grad():
        for parameter in last.parameters():
            parameter *= 30
    torch.testing.assert_close(with_noise(), noisy)


def test_guide_is_not_trained():
    net = small("knn-denoised").train()
    before = {n: t.clone() for n, t in net.guide.state_dict().items()}
    net(torch.rand(2, 1, 20, 20)).sum().backward()
    assert all(p.grad is None for p in net.guide.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.guide.state_dict().items())


def test_without_neighbours_is_neighbours_equal_to_themselves():
    block = ImageN3Block(2, 3, patch_size=4, stride=2, window=3)
    x = torch.full((1, 2, 12, 12), 0.7)
    alike = block.eval()(x)
    torch.testing.assert_close(alike, block.without_neighbours(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["n3net", "knn-input"])
def test_no_stage_looks_farther_than_its_reach(name):
    """Float64 differences far from the border: far more at the reach than rounding, and beyond it
    rounding alone (matrix products may add up a row in another order when others change)."""
    torch.manual_seed(0)
    net = small(name).double().eval()
    size, centre = 61, 30
    x = torch.rand(1, 1, size, size, dtype=torch.float64)
    matching = net.matching_image(x)
    for index in range(net.stages):
        other = x.clone()
        reach = net.reach(index)
        other[..., centre - reach - 1, :] += 0.5
        guide = None if matching is None else other[:, :1]
        given = None if matching is None else x[:, :1]
        a, b = net.stage(index, x, given), net.stage(index, other, guide)
        difference = (a - b).abs()
        assert difference[..., centre, :].max() < 1e-14
        assert difference[..., centre - reach, :].max() > 1e-6
        x = net.stage(0, x) if index == 0 else x


def test_dncnn_adds_its_first_input_channels():
    net = DnCNN(3, 2, depth=3, features=4)
    torch.nn.init.zeros_(net.layers[-1].weight)
    x = torch.rand(1, 3, 5, 6)
    torch.testing.assert_close(net(x), x[:, :2])
    net = DnCNN(1, 4, depth=3, features=4)
    torch.nn.init.zeros_(net.layers[-1].weight)
    torch.testing.assert_close(net(x[:, :1])[:, 0], x[:, 0])
    assert not net(x[:, :1])[:, 1:].any()


def test_bfloat16_autocast_keeps_the_distances_in_float32():
    torch.manual_seed(0)
    net, x = small("n3net").eval(), torch.rand(1, 1, 30, 30)
    with torch.inference_mode():
        wanted = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = net(x)
    assert (found.float() - wanted).abs().max() < 0.05


@pytest.mark.parametrize(
    "fields",
    [
        {"maps": ("s",)}, {"sigma": (5, 2)}, {"matching": "input"}, {"selection": "knn"},
        {"selection": "x"}, {"channels": 0}, {"matching": "x"},
    ],
)
def test_impossible_configurations(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        N3NetConfig(**fields)


def test_input_of_another_shape_is_named():
    net = small("n3net", maps=("sigma",))
    for shape in [(1, 1, 20, 20), (2, 20, 20), (1, 2, 3, 20)]:
        with pytest.raises(ValueError, match="x must have shape"):
            net(torch.rand(shape))
    with pytest.raises(TypeError, match="floating point"):
        net(torch.zeros(1, 2, 20, 20, dtype=torch.uint8))
