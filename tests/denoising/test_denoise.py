"""`n3match.denoise`: types, shapes, sigma, and what it refuses."""

import importlib
from dataclasses import replace
from importlib import resources

import cv2
import numpy as np
import pytest
import torch

import n3match
from n3match.denoising import Denoiser, denoise_raw, estimate_sigma
from n3match.denoising.denoise import _stored
from n3match.nn import PRESETS, N3Net
from n3match.weights import save_weights, store

pytestmark = pytest.mark.arithmetic
denoise_module, denoiser_module = (
    importlib.import_module(f"n3match.denoising.{name}") for name in ("denoise", "denoiser")
)

SIZES = {
    "features": 8, "block_channels": 2, "neighbours": 2, "embedding_features": 8,
    "embedding_channels": 3, "depth": 3, "window": 5,
}


def network(**fields):
    torch.manual_seed(0)
    return Denoiser(replace(PRESETS["n3net"], **SIZES, **fields)).eval()


class _Shift(Denoiser):
    """Adds the noise it is told of, or a half."""

    def restore(self, x, *, memory_limit, progress=None):
        c = self.config.channels
        return x[:, :c] + (x[:, c:].sum(1, keepdim=True) if self.config.maps else 0.5)


def shift(**fields):
    return _Shift(replace(PRESETS["n3net"], **SIZES, **fields))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(30, 41), (30, 41, 1), (30, 41, 3), (1, 1), (4, 40)])
def test_type_and_shape_come_back(dtype, shape):
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1.0
    image = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    out = n3match.denoise(image, weights=network(sigma=(25, 25)))
    assert out.dtype == dtype and out.shape == shape and np.isfinite(out).all()


def test_integers_are_rounded_and_clipped_and_sigma_is_in_8_bit_units():
    net = shift(maps=("sigma",), sigma=(0, 75))
    image = np.array([[0, 100, 250]], np.uint8)
    assert n3match.denoise(image, 25.4, weights=net).tolist() == [[25, 125, 255]]
    assert n3match.denoise(image / 255, 25.5, weights=net)[0, 2] == pytest.approx(1.08039, abs=1e-5)
    deep = n3match.denoise(np.array([[1000]], np.uint16), 1, weights=net)
    assert deep[0, 0] == 1257


def test_sigma_is_estimated_where_the_network_wants_it():
    noise = np.random.default_rng(0).normal(size=(200, 200))
    image = (0.5 + noise * 20 / 255).astype(np.float32)
    out = n3match.denoise(image, weights=shift(maps=("sigma",), sigma=(0, 75)))
    assert (out - image).mean() * 255 == pytest.approx(20, rel=0.03)
    # No more than it was trained for.
    out = n3match.denoise(image, weights=shift(maps=("sigma",), sigma=(0, 10)))
    assert (out - image).mean() * 255 == pytest.approx(10, rel=1e-4)


def test_channels_of_a_colour_image_are_done_alike_by_a_grey_network():
    net, image = network(), np.random.default_rng(0).random((20, 25, 3))
    out = n3match.denoise(image, weights=net)
    for channel in range(3):
        np.testing.assert_allclose(
            out[..., channel], n3match.denoise(image[..., channel], weights=net), atol=1e-6
        )


def test_pictures_in_colour_are_done_by_weights_for_colours(tmp_path, monkeypatch):
    paths = {}
    for name, value, channels in (("n3net", 0.25, 1), ("n3net-colour", 0.5, 3)):
        net = N3Net(replace(PRESETS["dncnn-17"], features=2, depth=2, channels=channels))
        torch.nn.init.zeros_(net.local_networks[0].layers[-1].weight)
        torch.nn.init.constant_(net.local_networks[0].layers[-1].bias, value)
        paths[name] = tmp_path / f"{name}.safetensors"
        save_weights(paths[name], net)
    monkeypatch.setattr(store, "find", lambda name: paths[name])
    monkeypatch.setattr(denoise_module, "_loaded", Denoiser.from_pretrained)
    shapes = {"grey": (12, 13), "one": (12, 13, 1), "colour": (12, 13, 3), "four": (12, 13, 4)}
    found = {key: n3match.denoise(np.zeros(shape)).max() for key, shape in shapes.items()}
    assert found == {"grey": 0.25, "one": 0.25, "colour": 0.5, "four": 0.25}


@pytest.mark.parametrize("sigma", [5.0, 25.0, 60.0])
def test_estimate_is_right_for_noise_on_a_smooth_image(sigma):
    y, x = np.mgrid[:300, :400] / 400
    image = 255 * (0.5 + 0.3 * np.sin(5 * x) * y)
    noisy = image + np.random.default_rng(1).normal(scale=sigma, size=image.shape)
    assert estimate_sigma(noisy) == pytest.approx(sigma, rel=0.03)
    assert estimate_sigma(np.stack([noisy] * 3, 2)) == pytest.approx(estimate_sigma(noisy))
    assert estimate_sigma(np.zeros((20, 20))) == 0.0


def test_half_precision_ends_at_its_largest_number():
    found = _stored(np.array([1e6, -1e6, 0.5], np.float32), np.dtype(np.float16))
    assert found.dtype == np.float16 and found.tolist() == [65504, -65504, 0.5]


def test_raw_noise_is_given_by_a_and_b():
    net = shift(maps=("a", "b"))
    image = np.full((12, 12), 0.25, np.float32)
    assert denoise_raw(image, 0.01, 0.002, weights=net)[0, 0] == pytest.approx(0.262)
    with pytest.raises(ValueError, match="raw"):
        n3match.denoise(image, 25, weights=net)
    with pytest.raises(ValueError, match="a must be"):
        denoise_raw(image, -1, 0.1, weights=net)
    with pytest.raises(ValueError, match="b must be a number from 0 to 1e"):
        denoise_raw(image, 0.1, 1e300, weights=net)
    with pytest.raises(ValueError, match="image holds numbers as far apart"):
        denoise_raw(1e20 * np.ones((8, 8)), 0.1, 0.1, weights=net)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5), np.uint8), "shape"),
        (np.zeros((2, 3, 4, 5), np.uint8), "shape"),
        (np.full((20, 20), np.nan), "NaN"),
        (np.full((20, 20), np.inf, np.float32), "infinite"),
    ],
)
def test_images_that_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        n3match.denoise(image, 25, weights=network())


@pytest.mark.parametrize("image", [np.zeros((9, 9), bool), np.zeros((9, 9), np.int64), [[1.0]]])
def test_types_that_are_refused(image):
    with pytest.raises(TypeError, match="image"):
        n3match.denoise(image, 25, weights=network())


@pytest.mark.parametrize("sigma", [-1, 20.0, 32, 300, float("nan"), float("inf")])
def test_sigma_that_the_weights_are_not_for(sigma):
    with pytest.raises(ValueError, match=r"sigma: these weights are for noise of 26"):
        n3match.denoise(np.zeros((20, 20)), sigma, weights=network(sigma=(26, 26)))


def test_too_small_an_image_to_estimate_from_asks_for_sigma():
    net = network(maps=("sigma",), sigma=(0, 75))
    with pytest.raises(ValueError, match="give sigma"):
        n3match.denoise(np.zeros((1, 1)), weights=net)
    assert n3match.denoise(np.zeros((1, 1)), 25, weights=net).shape == (1, 1)


def test_weights_from_a_file_have_their_norms_folded(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = N3Net(replace(PRESETS["n3net"], **SIZES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    save_weights(tmp_path / "net.safetensors", net.eval())
    loaded = Denoiser.from_pretrained(tmp_path / "net.safetensors")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in loaded.modules())
    x = torch.rand(1, 1, 90, 63)
    with torch.inference_mode():
        wanted = net(x)
        torch.testing.assert_close(loaded(x), wanted, atol=1e-5, rtol=0)
    # Local networks, embeddings and temperatures in tiles, where that isn't much more work.
    monkeypatch.setattr(denoiser_module, "_BYTES_AT_ONCE", 40 * 40 * 8 * 4)
    monkeypatch.setattr(denoiser_module, "_MOST_WORK", 4.0)
    sizes, run = [], torch.nn.Sequential.forward
    monkeypatch.setattr(
        torch.nn.Sequential, "forward", lambda self, y: sizes.append(y.shape[2:]) or run(self, y)
    )
    torch.testing.assert_close(loaded.restore(x), wanted, atol=1e-5, rtol=0)
    assert len(sizes) > 7 and max(h * w for h, w in sizes) <= 40 * 40
    monkeypatch.setattr(denoiser_module, "_MOST_WORK", 1.1)
    sizes.clear()
    loaded.restore(x)
    assert sizes == [(90, 63)] * 7


def test_weights_that_are_missing_or_something_else(tmp_path):
    image = np.zeros((20, 20))
    with pytest.raises(ValueError, match="not a denoising network"):
        n3match.denoise(image, weights="sift")
    with pytest.raises(FileNotFoundError, match="absent"):
        n3match.denoise(image, weights=tmp_path / "absent.safetensors")
    with pytest.raises(TypeError, match="weights"):
        n3match.denoise(image, weights=3)


@pytest.mark.parametrize("sigma", [10, 25, 60])
def test_shipped_weights_take_noise_out_of_a_photograph(photograph, sigma):
    """Whether they are told the level or find it out, by more than non-local means."""
    rng = np.random.default_rng(sigma)
    noisy = photograph + rng.normal(0, sigma / 255, photograph.shape).astype(np.float32)
    eight_bit = np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8)
    baseline = cv2.fastNlMeansDenoising(eight_bit, None, sigma).astype(np.float32) / 255
    assert _psnr(n3match.denoise(noisy, sigma), photograph) > _psnr(baseline, photograph) + 0.3
    assert _psnr(n3match.denoise(noisy), photograph) > _psnr(baseline, photograph)


def test_shipped_weights_leave_a_clean_photograph_as_it_is(photograph):
    assert _psnr(n3match.denoise(photograph, 0), photograph) > 42


@pytest.fixture(scope="module")
def photograph():
    """A piece of a real one, half size; grey, 0 … 1."""
    path = resources.files("n3match.pipelines") / "demo_data" / "img_4885.jpg"
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return half[100:228, 60:188].astype(np.float32) / 255


def _psnr(found, clean):
    return -10 * np.log10(np.mean((found - clean) ** 2))
