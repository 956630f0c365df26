"""Image losses: compared with independent implementations, and their common properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import entropy
from skimage.metrics import structural_similarity
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from cyclegan.losses import IMAGE
from cyclegan.losses.image import BINS, DATA_RANGE, HIGH, LOW, UNIFORM, _shells, ssim

EVERY = pytest.mark.parametrize("name", list(IMAGE))
LONG = pytest.mark.parametrize("name", ["dice", "ssim", "fsc", "kl"])


def field(seed: int, *shape: int, sigma: float = 1.0) -> NDArray[np.float64]:
    """Smooth random structure over the last three axes, standardised."""
    random = np.random.default_rng(seed)
    values = gaussian_filter(random.normal(size=shape), [0] * (len(shape) - 3) + [sigma] * 3)
    return np.asarray((values - values.mean()) / values.std())


def pair(*shape: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    target = field(0, *shape)
    image = target + noise * np.random.default_rng(1).normal(size=shape)
    return torch.from_numpy(image).float(), torch.from_numpy(target).float()


def gradient(name: str, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=image.dtype == torch.bfloat16):
        value = IMAGE[name](image, target)
    value.backward()
    assert image.grad is not None
    return value.detach(), image.grad


SHAPES = [(1, 1, 16, 16, 16), (2, 2, 9, 12, 15), (3, 1, 7, 5, 24), (1, 1, 1, 8, 9), (1, 1, 1, 1, 1)]


@EVERY
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_images_cost_nothing(name: str, shape: tuple[int, ...]) -> None:
    image, _ = pair(*shape) if min(shape[2:]) > 1 else (torch.randn(shape), None)
    value, slope = gradient(name, image, image)
    assert float(value) == pytest.approx(0, abs=2e-6)
    assert float(slope.abs().max()) < 1e-5


@EVERY
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_the_gradient_leads_to_a_smaller_loss(name: str, shape: tuple[int, ...]) -> None:
    image, target = pair(*shape)
    value, slope = gradient(name, image, target)
    step = 0.05 * float(value) / float(slope.square().sum())
    smaller = IMAGE[name](image - step * slope, target)
    assert float(value) * 0.9 < float(smaller) < float(value)


@EVERY
def test_more_noise_costs_more(name: str) -> None:
    values = [float(IMAGE[name](*pair(2, 1, 16, 18, 17, noise=n))) for n in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[-1] > 2 * values[1] > 0


@EVERY
@pytest.mark.parametrize("value", [0.0, 1.5, -40.0])
def test_constant_images_have_finite_losses_and_gradients(name: str, value: float) -> None:
    constant = torch.full((2, 1, 8, 9, 10), value)
    _, structured = pair(2, 1, 8, 9, 10)
    for image, target in ((constant, structured), (structured, constant), (constant, constant)):
        loss, slope = gradient(name, image, target)
        assert loss.isfinite()
        assert slope.isfinite().all()
    assert float(loss) == pytest.approx(0, abs=1e-5)


@EVERY
def test_losses_are_single_precision_under_autocast(name: str) -> None:
    image, target = pair(2, 2, 11, 12, 13)
    half = image.bfloat16()
    value, slope = gradient(name, half, target)
    plain, plain_slope = gradient(name, half.float(), target)
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)
    assert slope.dtype == torch.bfloat16
    assert torch.allclose(slope.float(), plain_slope, rtol=1e-2, atol=1e-7)


@EVERY
def test_derivatives_agree_with_differences(name: str) -> None:
    image, target = (t.double() for t in pair(1, 2, 5, 6, 4))
    image.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: IMAGE[name](x, target), image, eps=1e-5, atol=1e-5, rtol=1e-4
    )


@EVERY
def test_a_batch_s_loss_is_the_mean_of_its_images_and_channels(name: str) -> None:
    image, target = pair(2, 3, 12, 13, 14)
    single = [
        IMAGE[name](image[b : b + 1, c : c + 1], target[b : b + 1, c : c + 1])
        for b in range(2)
        for c in range(3)
    ]
    assert float(IMAGE[name](image, target)) == pytest.approx(float(sum(single)) / 6, rel=1e-5)


@LONG
def test_the_same_images_give_the_same_bits(name: str) -> None:
    image, target = pair(2, 1, 16, 16, 16)
    first, second = (gradient(name, image, target) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@EVERY
def test_a_non_finite_voxel_shows(name: str) -> None:
    image, target = pair(1, 1, 12, 12, 12)
    for value in (float("nan"), float("inf")):
        image[0, 0, 6, 6, 6] = value
        loss = IMAGE[name](image, target)
        # A soft threshold of infinity is 1: Dice alone can't tell.
        assert not loss.isfinite() or (name == "dice" and value == float("inf"))


@EVERY
def test_after_inference_mode_a_training_gets_gradients(name: str) -> None:
    image, target = pair(1, 1, 10, 11, 9)
    with torch.inference_mode():
        IMAGE[name](image, target)
    _, slope = gradient(name, image, target)
    assert slope.any()


@pytest.fixture
def no_values() -> Iterator[None]:
    """Tensors without values: reading one, which would wait for a device, raises."""
    _shells.cache_clear()
    with FakeTensorMode():
        yield
    _shells.cache_clear()


@EVERY
@pytest.mark.usefixtures("no_values")
def test_nothing_waits_for_the_device(name: str) -> None:
    image = torch.empty(2, 2, 9, 12, 13, requires_grad=True)
    value = IMAGE[name](image, torch.empty(2, 2, 9, 12, 13))
    value.backward()
    with pytest.raises(DataDependentOutputException):
        value.item()


def test_dice_is_that_of_binary_images_where_the_threshold_is_hard() -> None:
    random = np.random.default_rng(0)
    a, b = (random.random((2, 1, 9, 9, 9)) < 0.3 for _ in range(2))
    overlap = [2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in zip(a, b, strict=True)]
    image, target = (torch.from_numpy(np.where(m, 100.0, -100.0)) for m in (a, b))
    assert float(IMAGE["dice"](image, target)) == pytest.approx(1 - np.mean(overlap), abs=1e-5)


def test_dice_stays_between_0_and_1() -> None:
    dark, bright = torch.full((1, 1, 4, 4, 4), -100.0), torch.full((1, 1, 4, 4, 4), 100.0)
    assert float(IMAGE["dice"](dark, bright)) == pytest.approx(1, abs=1e-5)
    assert float(IMAGE["dice"](dark, dark)) == 0
    image, target = pair(1, 1, 12, 12, 12)
    assert 0 < float(IMAGE["dice"](image, target)) < float(IMAGE["dice"](-image, target)) < 1


@pytest.mark.parametrize("shape", [(16, 16, 16), (11, 14, 23)])
def test_ssim_agrees_with_scikit_image(shape: tuple[int, int, int]) -> None:
    image, target = pair(1, 1, *shape)
    shifted = ((t[0, 0].double().numpy() + DATA_RANGE / 2) for t in (image, target))
    expected = structural_similarity(
        *shifted,
        data_range=DATA_RANGE,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert float(1 - IMAGE["ssim"](image, target)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [4, 7, 8, 10])
def test_the_window_of_ssim_shrinks_on_small_patches(size: int) -> None:
    image, target = pair(1, 1, size, size, size)
    radius = (size - 1) // 2
    x, y = ((t[0, 0].double().numpy() + DATA_RANGE / 2) for t in (image, target))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = slice(radius, size - radius)
        return np.asarray(gaussian_filter(values, 1.5, radius=radius)[inside, inside, inside])

    m_x, m_y = mean(x), mean(y)
    v_x, v_y, v_xy = mean(x * x) - m_x**2, mean(y * y) - m_y**2, mean(x * y) - m_x * m_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = (2 * m_x * m_y + c1) * (2 * v_xy + c2)
    similarity /= (m_x**2 + m_y**2 + c1) * (v_x + v_y + c2)
    assert float(IMAGE["ssim"](image, target)) == pytest.approx(1 - similarity.mean(), abs=1e-5)


def test_ssim_is_large_for_inverted_contrast_and_its_data_range_can_be_given() -> None:
    image, target = pair(1, 1, 16, 16, 16, noise=0.1)
    assert float(IMAGE["ssim"](-image, target)) > 1.5
    scaled = float(ssim(10 * image, 10 * target, data_range=60.0))
    assert scaled == pytest.approx(float(ssim(image, target, data_range=6.0)), abs=1e-5)


def direct_fsc(x: NDArray[np.float64], y: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Compute it shell by shell over the full complex transform."""
    window = np.ones(())
    for n in x.shape:
        window = np.multiply.outer(window, np.hanning(n + 2)[1:-1])
    f, g = (
        np.fft.fftn((v - (v * window).sum() / window.sum()) * window) / np.sqrt((window**2).sum())
        for v in (x, y)
    )
    k = np.sqrt(sum(a**2 for a in np.meshgrid(*map(np.fft.fftfreq, x.shape), indexing="ij")))
    size = min(x.shape)
    curve = []
    for shell in range(1, size // 2 + 1):
        inside = np.rint(k * size) == shell
        noise = floor**2 * inside.sum()
        cross = (f[inside] * g[inside].conj()).sum().real + noise
        powers = [(np.abs(v[inside]) ** 2).sum() + noise for v in (f, g)]
        curve.append(cross / np.sqrt(powers[0] * powers[1]))
    return np.array(curve)


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 13, 17), (8, 16, 20)])
def test_fsc_agrees_with_a_direct_one(shape: tuple[int, int, int]) -> None:
    image, target = pair(1, 1, *shape)
    curve = direct_fsc(image[0, 0].double().numpy(), target[0, 0].double().numpy(), 1e-2)
    assert float(IMAGE["fsc"](image, target)) == pytest.approx(1 - curve.mean(), abs=1e-5)


def test_fsc_is_one_for_independent_noise_and_two_for_inverted_contrast() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(8, 1, 24, 24, 24, generator=random) for _ in range(2))
    assert float(IMAGE["fsc"](x, y)) == pytest.approx(1, abs=0.03)
    assert float(IMAGE["fsc"](x, -x)) == pytest.approx(2, abs=1e-3)


def test_fsc_does_not_depend_on_contrast_and_brightness() -> None:
    image, target = pair(1, 1, 16, 16, 16)
    value = float(IMAGE["fsc"](image, target))
    assert float(IMAGE["fsc"](3 * image + 5, target)) == pytest.approx(value, abs=1e-3)


def test_a_patch_s_faces_do_not_pass_for_fine_structure() -> None:
    # Common coarse structure that is not periodic in the patch, and independent white noise.
    coarse = field(0, 64, 64, 64, sigma=4)[16:48, 16:48, 16:48]
    noise = np.random.default_rng(1).normal(size=(2, 32, 32, 32))
    x, y = (torch.from_numpy(coarse + 0.1 * n)[None, None] for n in noise)
    assert float(IMAGE["fsc"](x, y)) > 0.5

    def untapered(a: NDArray[np.float64]) -> NDArray[np.complex128]:
        return np.fft.fftn(a)[8:16, 8:16, 8:16]

    f, g = (untapered(v.numpy()[0, 0]) for v in (x, y))
    assert np.abs(np.vdot(f, g)) < 0.2 * np.linalg.norm(f) * np.linalg.norm(g)


def test_kl_agrees_with_scipy_on_soft_histograms() -> None:
    image, target = pair(1, 1, 12, 12, 12, noise=1.0)

    def histogram(values: Tensor) -> NDArray[np.float64]:
        width = (HIGH - LOW) / BINS
        centres = LOW + (np.arange(BINS) + 0.5) * width
        flat = np.clip(values.double().numpy().reshape(-1, 1), centres[0], centres[-1])
        counts = np.maximum(0, 1 - np.abs(flat - centres) / width).mean(axis=0)
        return np.asarray((1 - UNIFORM) * counts + UNIFORM / BINS)

    expected = entropy(histogram(target), histogram(image))
    assert float(IMAGE["kl"](image, target)) == pytest.approx(expected, rel=1e-4)


def test_kl_grows_with_a_shift_and_ignores_where_voxels_lie() -> None:
    _, target = pair(1, 1, 16, 16, 16)
    values = [float(IMAGE["kl"](target + shift, target)) for shift in (0, 0.25, 0.5, 1, 2, 4)]
    assert values == sorted(values)
    assert values[1] > 1e-3
    assert values[-1] < np.log(BINS / UNIFORM)
    assert float(IMAGE["kl"](target.flip(2), target)) == pytest.approx(0, abs=1e-6)


def bytes_kept(function: Callable[[Tensor, Tensor], Tensor], image: Tensor, target: Tensor) -> int:
    """Bytes that are stored for the backward pass."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        value = function(image.clone().requires_grad_(), target)
    assert value.requires_grad
    return sum(kept.values())


@LONG
def test_what_is_kept_for_the_way_back_follows_the_voxels(name: str) -> None:
    image, target = pair(1, 1, 32, 32, 32)
    assert bytes_kept(IMAGE[name], image, target) < 100 * image.numel()
    if name == "kl":
        assert bytes_kept(IMAGE[name], image, target) < 5 * image.numel()
