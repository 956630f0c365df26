// Volumes: unpacked from the page, with their grid, their values and a histogram of these.
// Axes are indexed 0, 1, 2 for z, y, x; positions are lengths from the first face of the volume.

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Adds to each code its prediction from the neighbours before it; see fit.py.
function unpredict(codes, [nz, ny, nx]) {
  const row = nx, slice = nx * ny;
  let i = 0;
  for (let z = 0; z < nz; z++) {
    for (let y = 0; y < ny; y++) {
      for (let x = 0; x < nx; x++, i++) {
        const one = (x && codes[i - 1]) + (y && codes[i - row]) + (z && codes[i - slice]);
        const two = (x && y && codes[i - 1 - row]) + (x && z && codes[i - 1 - slice])
          + (y && z && codes[i - row - slice]);
        const guess = Math.floor((2 * one - two) / 3);
        codes[i] += guess < 0 ? 0 : guess > 255 ? 255 : guess;
      }
    }
  }
}

class Volume {
  static async unpack(about, text) {
    const codes = await inflate(text);
    const expected = about.shape.reduce((a, b) => a * b);
    if (codes.length !== expected) {
      throw new Error(`${about.name}: ${codes.length} voxels instead of ${expected}`);
    }
    unpredict(codes, about.shape);
    return new Volume(about, codes);
  }

  constructor(about, codes) {
    Object.assign(this, about); // name, kind, unit, domain, shape, origin, voxel, low, step, ...
    this.codes = codes;
    this.strides = [this.shape[1] * this.shape[2], this.shape[2], 1];
    this.end = this.origin.map((start, axis) => start + this.shape[axis] * this.voxel[axis]);
    this.counts = new Uint32Array(256);
    for (const code of codes) this.counts[code]++;
    let least = 0, greatest = this.top;
    while (least < greatest && !this.counts[least]) least++;
    while (greatest > least && !this.counts[greatest]) greatest--;
    this.range = [this.value(least), this.value(greatest)];
  }

  value(code) {
    return code > this.top ? NaN : this.low + this.step * code;
  }

  // Index of the voxel at a position along an axis, -1 outside.
  index(axis, position) {
    const index = Math.floor((position - this.origin[axis]) / this.voxel[axis] + 1e-6);
    return index >= 0 && index < this.shape[axis] ? index : -1;
  }

  // The code at a point (z, y, x), or null outside.
  code(point) {
    let offset = 0;
    for (let axis = 0; axis < 3; axis++) {
      const index = this.index(axis, point[axis]);
      if (index < 0) return null;
      offset += index * this.strides[axis];
    }
    return this.codes[offset];
  }

  at(point) {
    const code = this.code(point);
    return code === null ? NaN : this.value(code);
  }

  // The value at a point as text; "≤" and "≥" where it may have been clipped.
  text(point) {
    const code = this.code(point);
    if (code === null) return "–";
    if (code > this.top) return "NaN";
    const clipped = code === 0 && this.below ? "≤ " : code === this.top && this.above ? "≥ " : "";
    return clipped + number(this.value(code), this.step);
  }

  // The index of a voxel in the whole volume, from which this may be a crop.
  wholeIndex(axis, position) {
    const index = this.index(axis, position);
    return index < 0 ? NaN : this.first[axis] + index * this.binned[axis];
  }

  percentiles(...wanted) {
    const total = this.counts.subarray(0, this.top + 1).reduce((a, b) => a + b, 0);
    return wanted.map((percent) => {
      let left = (percent / 100) * total, code = 0;
      while (code < this.top && (left -= this.counts[code]) > 0) code++;
      return this.value(code);
    });
  }
}

// A number as text with the digits that a step between neighbouring values justifies.
function number(value, step) {
  if (!Number.isFinite(value)) return "NaN";
  const digits = step > 0 ? Math.ceil(-Math.log10(step)) : 3;
  if (digits > 7 || Math.abs(value) >= 1e7) return value.toExponential(3);
  const text = value.toFixed(Math.min(Math.max(digits, 0), 7));
  return Number(text) === 0 ? text.replace("-", "") : text;
}
