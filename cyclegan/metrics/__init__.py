"""Measures of volumes: image quality, Fourier shell correlation, spectra, texture distances.

```
quality       PSNR, SSIM and the best filter, against a reference
correlation   Fourier shell correlation, and the resolution it gives
spectrum      radial power spectra and their distances
wasserstein   sliced Wasserstein distances of patches
agreement     agreement of several enhancements of one volume
```
"""
