import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cyclegan.errors import DataError
from cyclegan.metrics.quality import (
    QualityRow,
    affine_fit,
    best_gaussian,
    compare_with_reference,
    psnr,
    ssim,
    verdict,
)

Volume = NDArray[np.float32]


def structure(size: int = 24, sigma: float = 2.0) -> Volume:
    """Two materials with blurred borders, standard deviation 1."""
    field = gaussian_filter(np.random.default_rng(1).standard_normal((size,) * 3), sigma)
    field = np.tanh(3 * field / field.std())
    return (field / field.std()).astype(np.float32)


def noisy(volume: Volume, std: float, seed: int = 2) -> Volume:
    noise = np.random.default_rng(seed).standard_normal(volume.shape)
    return (volume + std * noise).astype(np.float32)


def test_psnr_is_the_definition() -> None:
    reference = structure()
    shifted = reference + 0.1
    assert psnr(shifted, reference, data_range=1.0) == pytest.approx(20.0, abs=1e-3)
    span = np.percentile(reference, 99.9) - np.percentile(reference, 0.1)
    assert psnr(shifted, reference) == pytest.approx(20 + 20 * math.log10(span), abs=1e-3)
    assert psnr(reference, reference) == math.inf


def test_one_hot_voxel_does_not_make_the_psnr_better() -> None:
    reference = structure()
    hot = reference.copy()
    hot[3, 4, 5] = 1e3
    image = noisy(reference, 0.5)
    assert psnr(noisy(hot, 0.5), hot) == pytest.approx(psnr(image, reference), abs=0.1)


def test_half_precision_does_not_overflow() -> None:
    reference = (300 * structure()).astype(np.float16)
    image = (reference.astype(np.float32) + 300).astype(np.float16)
    expected = psnr(image.astype(np.float64), reference.astype(np.float64))
    assert psnr(image, reference) == pytest.approx(expected, abs=1e-3)
    assert affine_fit(image, reference).offset == pytest.approx(-300, abs=1)


def test_ssim_is_one_for_equal_falls_with_noise_and_uses_gaussian_weights() -> None:
    reference = structure()
    assert ssim(reference, reference) == pytest.approx(1.0)
    values = [ssim(noisy(reference, std), reference) for std in (0.1, 0.3, 1.0)]
    assert 1 > values[0] > values[1] > values[2] > 0
    # The definition with Gaussian windows, written out in full.
    image, span = noisy(reference, 0.3), 4.0
    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y, xx, yy, xy = (
        gaussian_filter(v, 1.5, truncate=3.5, mode="reflect") for v in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    expected = similarity[5:-5, 5:-5, 5:-5].mean()
    assert ssim(image, reference, data_range=span) == pytest.approx(expected, abs=1e-3)


def test_the_affine_fit_recovers_slope_and_offset_and_their_sign() -> None:
    reference = structure()
    fit = affine_fit((reference - 3) / -2, reference)
    assert (fit.slope, fit.offset) == (pytest.approx(-2, rel=1e-4), pytest.approx(3, rel=1e-4))
    np.testing.assert_allclose(fit((reference - 3) / -2), reference, atol=1e-4)
    constant = affine_fit(np.full_like(reference, 0.7), reference)
    assert constant.slope == 0.0
    assert constant.offset == pytest.approx(float(reference.mean()), abs=1e-6)


def test_no_slope_and_offset_fit_better_than_the_affine_fit() -> None:
    reference = structure()
    image = noisy(reference, 0.7)
    fit = affine_fit(image, reference)
    best = psnr(fit(image), reference)
    for slope, offset in ((0.02, 0.0), (-0.02, 0.0), (0.0, 0.02), (0.0, -0.02)):
        moved = (fit.slope + slope) * image + fit.offset + offset
        assert psnr(moved, reference) < best


def test_the_best_gaussian_has_the_highest_fitted_psnr_of_all() -> None:
    reference = structure()
    image = noisy(reference, 1.0)
    filtered, sigma = best_gaussian(image, reference)
    np.testing.assert_allclose(filtered, gaussian_filter(image, sigma))
    best = psnr(affine_fit(filtered, reference)(filtered), reference)
    for other in (0.5 * sigma, 1.6 * sigma):
        blurred = gaussian_filter(image, other)
        assert psnr(affine_fit(blurred, reference)(blurred), reference) < best
    assert best_gaussian(image, reference, sigmas=[0.0, 9.0])[1] == 0.0


def test_a_clean_image_needs_no_filter() -> None:
    assert best_gaussian(structure(), structure())[1] == 0.0


def test_the_comparison_ranks_and_shows_the_inverted_sign() -> None:
    reference = structure()
    scan = 0.6 * noisy(reference, 1.0) + 0.2
    rows = compare_with_reference(noisy(reference, 0.05, seed=3), scan, reference)
    assert [row.name for row in rows] == ["input", "best Gaussian", "enhanced"]
    assert rows[0].psnr < rows[1].psnr < rows[2].psnr
    assert rows[0].ssim < rows[1].ssim < rows[2].ssim
    assert [row.sign for row in rows] == [1, 1, 1]
    assert rows[0].sigma is None
    assert rows[1].sigma is not None
    assert rows[1].sigma > 0
    inverted = compare_with_reference(-noisy(reference, 0.05, seed=3), scan, reference)[2]
    assert inverted.psnr == pytest.approx(rows[2].psnr, abs=1e-3)
    assert inverted.sign == -1


@pytest.mark.parametrize("factor", [2, 4])
def test_a_coarse_input_is_laid_on_the_reference_grid_without_a_shift(factor: int) -> None:
    reference = structure(32, sigma=2.5 * factor)
    size = 32 // factor
    blocks = reference.reshape(size, factor, size, factor, size, factor).mean(axis=(1, 3, 5))
    fair = compare_with_reference(reference, blocks, reference)[0]
    # Stretching the outermost voxel centres to the edges, half a voxel off, gives 25 dB.
    assert fair.psnr > 26.5
    # Repeating voxels is cruder, but its alignment is right.
    repeated = blocks.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    assert fair.psnr > psnr(repeated, reference) + 1
    assert compare_with_reference(reference, blocks, reference)[2].psnr > 100


@pytest.mark.parametrize(
    ("image", "input", "reference", "message"),
    [
        ("nan", "good", "good", "the image has 1 of"),
        ("good", "inf", "good", "the input has 1 of"),
        ("good", "good", "nan", "the reference has 1 of"),
        ("small", "good", "good", r"shape \(12, 12, 12\)"),
        ("good", "flat", "good", r"the input has shape \(24, 24\)"),
        ("good", "good", "constant", "the reference is constant"),
    ],
)
def test_bad_arrays_are_refused_by_name(
    image: str, input: str, reference: str, message: str
) -> None:
    good = structure()
    arrays = {"good": good, "small": good[:12, :12, :12], "flat": good[0], "constant": 0 * good}
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        arrays[name] = good.copy()
        arrays[name][1, 2, 3] = value
    with pytest.raises(DataError, match=message):
        compare_with_reference(arrays[image], arrays[input], arrays[reference])


def test_a_volume_too_small_for_the_window_of_ssim_is_refused_in_one_line() -> None:
    small = structure()[:10]
    with pytest.raises(DataError, match="11 voxels"):
        ssim(small, small)


FILTER = "The best Gaussian filter (sigma 1.2 voxels, chosen with the reference)"
WINS = f"{FILTER} is closer to the reference than the enhanced volume: "
WORSE = " This model does worse than a filter here."


@pytest.mark.parametrize(
    ("enhanced", "plain", "words"),
    [
        (
            (31.9, 0.87, 1.0),
            (30.0, 0.80, 1.0),
            "The enhanced volume is closer to the reference than the best Gaussian filter: "
            "by 1.9 dB in PSNR and 0.07 in SSIM.",
        ),
        (
            (30.0, 0.87, 1.0),
            (30.0, 0.80, 1.0),
            "The enhanced volume is closer to the reference than the best Gaussian filter: "
            "by 0.07 in SSIM, with the same PSNR.",
        ),
        (
            (29.7, 0.79, 1.0),
            (30.0, 0.80, 1.0),
            f"{WINS}by 0.3 dB in PSNR and 0.01 in SSIM.{WORSE}",
        ),
        (
            (29.7, 0.80, 1.0),
            (30.0, 0.80, 1.0),
            f"{WINS}by 0.3 dB in PSNR, with the same SSIM.{WORSE}",
        ),
        (
            (29.7, 0.81, 1.0),
            (30.0, 0.80, 1.0),
            f"Against the reference t{FILTER[1:]} is ahead in PSNR by 0.3 dB, the enhanced volume "
            "in SSIM by 0.01.",
        ),
        (
            (30.3, 0.79, 1.0),
            (30.0, 0.80, 1.0),
            "Against the reference the enhanced volume is ahead in PSNR by 0.3 dB, "
            f"t{FILTER[1:]} in SSIM by 0.01.",
        ),
        (
            (30.04, 0.803, 1.0),  # differences that read 0.0 and 0.00
            (30.0, 0.80, 1.0),
            f"The enhanced volume and t{FILTER[1:]} are equally close to the reference: PSNR "
            "differs by less than 0.1 dB, SSIM by less than 0.01. This model does no better than "
            "a filter here.",
        ),
        (
            (math.inf, 1.0, 1.0),  # their difference is not a number
            (math.inf, 1.0, 1.0),
            f"The enhanced volume and t{FILTER[1:]} are equally close to the reference: PSNR "
            "differs by less than 0.1 dB, SSIM by less than 0.01. This model does no better than "
            "a filter here.",
        ),
        (
            (40.0, 0.99, -1.0),
            (30.0, 0.80, 1.0),
            f"{WINS}the enhanced volume's contrast is inverted.{WORSE}",
        ),
        (
            (40.0, 0.99, 0.0),
            (30.0, 0.80, 1.0),
            f"{WINS}the enhanced volume's contrast is lost.{WORSE}",
        ),
        (
            (20.0, 0.10, 1.0),
            (30.0, 0.80, -1.0),
            "The enhanced volume is closer to the reference than the best Gaussian filter, which "
            "does not show the reference's contrast.",
        ),
        (
            (40.0, 0.99, -1.0),
            (30.0, 0.80, -1.0),
            "Neither the enhanced volume nor the best Gaussian filter shows the reference's "
            "contrast: make sure that the reference is of the same place.",
        ),
    ],
)
def test_the_verdict_says_who_is_closer_and_an_inverted_volume_never_is(
    enhanced: tuple[float, float, float], plain: tuple[float, float, float], words: str
) -> None:
    rows = [
        QualityRow("input", 25.0, 0.5, 1.0),
        QualityRow("best Gaussian", *plain, sigma=1.2),
        QualityRow("enhanced", *enhanced),
    ]
    assert verdict(rows) == words


def test_the_verdict_names_a_filter_that_is_none_and_is_empty_without_rows() -> None:
    plain = QualityRow("best Gaussian", 30.0, 0.8, 1.0, sigma=0.0)
    words = verdict([plain, QualityRow("enhanced", 29.0, 0.7, 1.0)])
    assert "(sigma 0, the input as it is, chosen with the reference)" in words
    assert words.endswith("This model does worse than leaving the input as it is.")
    assert verdict([]) == verdict([plain]) == ""
