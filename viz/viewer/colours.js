// Colours as 256 pixels (ABGR words, as canvases store them on little-endian machines).

// Rising lightness, after matplotlib's inferno: readable without colour.
const SEQUENTIAL = [[20, 11, 53], [101, 21, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
// Blue, white, red (ColorBrewer RdBu): red and blue differ for every kind of colour blindness.
const DIVERGING = [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]];

function pixel(red, green, blue, alpha = 255) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

function colour(points, t) {
  const place = Math.min(Math.max(t, 0), 1) * (points.length - 1);
  const i = Math.min(Math.floor(place), points.length - 2);
  return points[i].map((from, c) => Math.round(from + (place - i) * (points[i + 1][c] - from)));
}

// Greys of a volume's codes with a window [low, high]; voxels without a value are transparent.
function greys(volume, [low, high]) {
  const table = new Uint32Array(256);
  const width = Math.max(high - low, 1e-12 * Math.max(Math.abs(low), Math.abs(high)), 1e-300);
  for (let code = 0; code <= volume.top; code++) {
    const t = (volume.value(code) - low) / width;
    const grey = Math.round(255 * Math.min(Math.max(t, 0), 1));
    table[code] = pixel(grey, grey, grey);
  }
  return table;
}

// Overlay colours from the low end (0) to the high end (255). Larger values are less transparent:
// no difference leaves the image unchanged, and low doubt nearly so.
function overlayColours(diverging, opacity) {
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const t = i / 255;
    const amount = diverging ? 1.6 * Math.abs(2 * t - 1) : 2 * t * t;
    const alpha = Math.round(255 * opacity * Math.min(1, amount));
    return pixel(...colour(diverging ? DIVERGING : SEQUENTIAL, t), alpha);
  });
}

// The CSS variable of the page's light or dark scheme.
function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
