// Slices of volumes as small canvases, and the three views that draw them.

// Across, down and through each view, as axes.
const PLANES = {
  XY: { name: "XY", u: 2, v: 1, w: 0 },
  YZ: { name: "YZ", u: 0, v: 1, w: 2 },
  XZ: { name: "XZ", u: 2, v: 0, w: 1 },
};
const AXES = ["z", "y", "x"];
const MARGIN = 6;

// A canvas with one pixel a voxel of `grid`, filled by `paint(pixels, width, height)`.
function sliceCanvas(plane, grid, paint) {
  const width = grid.shape[plane.u], height = grid.shape[plane.v];
  const canvas = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  paint(new Uint32Array(image.data.buffer), width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function volumeSlice(volume, plane, position, table) {
  const index = volume.index(plane.w, position);
  if (index < 0) return null;
  return sliceCanvas(plane, volume, (pixels, width, height) => {
    const { codes, strides } = volume;
    for (let v = 0, i = 0; v < height; v++) {
      let from = index * strides[plane.w] + v * strides[plane.v];
      for (let u = 0; u < width; u++, i++, from += strides[plane.u]) pixels[i] = table[codes[from]];
    }
  });
}

// Right minus left on the finer grid, the nearest voxel of the coarser.
class Difference {
  constructor(left, right) {
    this.left = left;
    this.right = right;
    this.grid = left.codes.length > right.codes.length ? left : right;
    this.step = Math.min(left.step || Infinity, right.step || Infinity);
    if (!Number.isFinite(this.step)) this.step = 0;
    this.limit = this.percentile(99.5) || 1;
  }

  at(point) {
    return this.right.at(point) - this.left.at(point);
  }

  // Percentile of |difference| over a regular sample of voxels.
  percentile(percent) {
    const { shape, origin, voxel, codes } = this.grid;
    const stride = Math.max(1, Math.floor(codes.length / 40011)), found = [];
    for (let i = 0; i < codes.length; i += stride) {
      const x = i % shape[2], y = Math.floor(i / shape[2]) % shape[1];
      const z = Math.floor(i / shape[2] / shape[1]);
      const value = this.at([z, y, x].map((n, axis) => origin[axis] + (n + 0.5) * voxel[axis]));
      if (!Number.isNaN(value)) found.push(Math.abs(value));
    }
    found.sort((a, b) => a - b);
    return found[Math.min(found.length - 1, Math.floor((percent / 100) * found.length))];
  }

  slice(plane, position, table, [low, high]) {
    const { origin, voxel } = this.grid;
    const offsets = (volume, axis, length) => Int32Array.from({ length }, (_, i) => {
      const index = volume.index(axis, origin[axis] + (i + 0.5) * voxel[axis]);
      return index < 0 ? -1 : index * volume.strides[axis];
    });
    const sides = [this.left, this.right].map((volume) => ({
      volume, base: volume.index(plane.w, position) * volume.strides[plane.w],
    }));
    if (sides.some((side) => side.base < 0)) return null;
    return sliceCanvas(plane, this.grid, (pixels, width, height) => {
      for (const side of sides) {
        side.us = offsets(side.volume, plane.u, width);
        side.vs = offsets(side.volume, plane.v, height);
        side.values = Float64Array.from({ length: 256 }, (_, code) => side.volume.value(code));
      }
      const [left, right] = sides;
      const value = (side, u, v) => side.us[u] < 0 || side.vs[v] < 0 ? NaN
        : side.values[side.volume.codes[side.base + side.us[u] + side.vs[v]]];
      for (let v = 0, i = 0; v < height; v++) {
        for (let u = 0; u < width; u++, i++) {
          const t = (value(right, u, v) - value(left, u, v) - low) / (high - low);
          pixels[i] = Number.isNaN(t) ? 0 : table[Math.round(255 * Math.min(Math.max(t, 0), 1))];
        }
      }
    });
  }
}

// A map's codes through the overlay's colours.
function mapColours(volume, table, [low, high]) {
  const result = new Uint32Array(256);
  for (let code = 0; code <= volume.top; code++) {
    const t = (volume.value(code) - low) / (high - low || 1e-300);
    result[code] = table[Math.round(255 * Math.min(Math.max(t, 0), 1))];
  }
  return result;
}

class View {
  constructor(plane, app) {
    this.plane = plane;
    this.app = app;
    this.figure = document.getElementById(`view-${plane.name}`);
    this.canvas = this.figure.querySelector("canvas");
    this.slider = this.figure.querySelector("input");
    this.output = this.figure.querySelector("output");
    this.slider.addEventListener("input", () => app.moveTo(plane.w, Number(this.slider.value)));
  }

  // Takes the size that the page gives; returns how many pixels a length unit may have.
  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.width = width;
    this.height = height;
    const pixels = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (this.canvas.width !== pixels[0] || this.canvas.height !== pixels[1]) {
      [this.canvas.width, this.canvas.height] = pixels;
    }
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { low, high } = this.app.box;
    return Math.max(0.001, Math.min(
      (width - 2 * MARGIN) / (high[this.plane.u] - low[this.plane.u]),
      (height - 2 * MARGIN) / (high[this.plane.v] - low[this.plane.v])));
  }

  screen(axis, position) {
    const middle = axis === this.plane.u ? this.width / 2 : this.height / 2;
    return middle + (position - this.app.centre[axis]) * this.app.pixelsPerLength;
  }

  position(axis, pixels) {
    const middle = axis === this.plane.u ? this.width / 2 : this.height / 2;
    return this.app.centre[axis] + (pixels - middle) / this.app.pixelsPerLength;
  }

  // Place of the curtain's line in pixels: a fraction of the visible part of the volume.
  get splitAt() {
    const { low, high } = this.app.box;
    const left = Math.max(0, this.screen(this.plane.u, low[this.plane.u]));
    const right = Math.min(this.width, this.screen(this.plane.u, high[this.plane.u]));
    return left + this.app.split * (right - left);
  }

  splitFrom(pixels) {
    const { low, high } = this.app.box;
    const left = Math.max(0, this.screen(this.plane.u, low[this.plane.u]));
    const right = Math.min(this.width, this.screen(this.plane.u, high[this.plane.u]));
    return Math.min(1, Math.max(0, (pixels - left) / (right - left)));
  }

  draw() {
    const { app, context, plane } = this;
    const position = app.point[plane.w];
    context.clearRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = false;
    const paint = (volume) => this.paint(
      volume, volumeSlice(volume, plane, position, greys(volume, app.window(volume))));
    if (app.curtain) {
      this.clipped(0, this.splitAt, () => paint(app.left));
      this.clipped(this.splitAt, this.width, () => paint(app.right));
    } else {
      paint(app.left);
    }
    const overlay = app.overlaySlice(plane, position);
    if (overlay) this.paint(overlay.grid, overlay.canvas);
    this.drawNames();
    if (app.curtain) this.drawCurtain();
    if (app.crosshair) this.drawCrosshair();
    this.drawScaleBar();
    this.describe();
  }

  paint(grid, canvas) {
    if (!canvas) return;
    const { u, v } = this.plane;
    const x = this.screen(u, grid.origin[u]), y = this.screen(v, grid.origin[v]);
    this.context.drawImage(
      canvas, x, y, this.screen(u, grid.end[u]) - x, this.screen(v, grid.end[v]) - y);
  }

  clipped(from, to, paint) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(from, 0, to - from, this.height);
    this.context.clip();
    paint();
    this.context.restore();
  }

  line(x0, y0, x1, y1, style, width) {
    this.context.strokeStyle = style;
    this.context.lineWidth = width;
    this.context.beginPath();
    this.context.moveTo(x0, y0);
    this.context.lineTo(x1, y1);
    this.context.stroke();
  }

  drawCrosshair() {
    // Lines through the middle of a pixel are sharp.
    const x = Math.floor(this.screen(this.plane.u, this.app.point[this.plane.u])) + 0.5;
    const y = Math.floor(this.screen(this.plane.v, this.app.point[this.plane.v])) + 0.5;
    const gap = 9; // so that the voxel itself is seen
    for (const [style, width] of [["#0009", 3], [themed("--cross"), 1]]) {
      this.line(0, y, x - gap, y, style, width);
      this.line(x + gap, y, this.width, y, style, width);
      this.line(x, 0, x, y - gap, style, width);
      this.line(x, y + gap, x, this.height, style, width);
    }
  }

  drawCurtain() {
    const { context } = this, x = this.splitAt, y = this.height - 30;
    this.line(x, 0, x, this.height, "#000", 4);
    this.line(x, 0, x, this.height, "#fff", 2);
    context.fillStyle = "#fff";
    context.strokeStyle = "#000";
    context.lineWidth = 1;
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.fillStyle = "#000";
    context.beginPath();
    for (const side of [-1, 1]) {
      context.moveTo(x + side * 6, y);
      context.lineTo(x + side * 2, y - 4);
      context.lineTo(x + side * 2, y + 4);
    }
    context.fill();
  }

  label(text, x, y, align) {
    const { context } = this;
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "left";
    const width = context.measureText(text).width + 10;
    const left = align === "right" ? x - width : x;
    context.fillStyle = "#000b";
    context.fillRect(left, y, width, 19);
    context.fillStyle = "#fff";
    context.fillText(text, left + 5, y + 10);
  }

  drawNames() {
    const { app } = this;
    if (!app.curtain) return this.label(app.left.name, 5, 5, "left");
    this.clipped(0, this.splitAt, () => this.label(app.left.name, this.splitAt - 7, 5, "right"));
    this.clipped(
      this.splitAt, this.width, () => this.label(app.right.name, this.splitAt + 7, 5, "left"));
    return undefined;
  }

  drawScaleBar() {
    const length = nice((0.3 * this.width) / this.app.pixelsPerLength);
    const pixels = length * this.app.pixelsPerLength;
    const { context } = this, x = 8, y = this.height - 12;
    const text = this.app.length(length);
    context.font = "11px system-ui, sans-serif";
    const wide = Math.max(pixels, context.measureText(text).width);
    context.fillStyle = "#000b";
    context.fillRect(x - 4, y - 19, wide + 8, 27);
    context.fillStyle = "#fff";
    context.fillRect(x, y, pixels, 3);
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(text, x, y - 5);
  }

  // Shows the slice in the slider and in texts, also for screen readers.
  describe() {
    const { app, plane } = this, volume = app.finest;
    const index = volume.index(plane.w, app.point[plane.w]);
    this.slider.min = 0;
    this.slider.max = volume.shape[plane.w] - 1;
    this.slider.value = index;
    const whole = volume.wholeIndex(plane.w, app.point[plane.w]);
    this.output.textContent = `${AXES[plane.w]} ${whole} / ${volume.whole[plane.w] - 1}`;
    const images = app.curtain ? `${app.left.name} | ${app.right.name}` : app.left.name;
    this.canvas.setAttribute(
      "aria-label", `${plane.name} view of ${images}, slice ${AXES[plane.w]} ${whole}`);
  }
}

// The greatest of 1, 2, 5, 10, 20, ... that is not above a length.
function nice(length) {
  const power = 10 ** Math.floor(Math.log10(length));
  return [5, 2, 1].find((n) => n * power <= length) * power;
}
