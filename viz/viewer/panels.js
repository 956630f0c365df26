// The panel beside the views and the values at the crosshair. Text is inserted as text, never as
// HTML: names and notes come from users.

function byId(id) {
  return document.getElementById(id);
}

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Writes a number into a field, but not while the user is typing in it.
function setField(field, value, step) {
  if (document.activeElement !== field) field.value = number(value, step / 10);
}

class ImagePanel {
  constructor(app) {
    this.app = app;
    this.selects = { left: byId("left"), right: byId("right") };
    for (const [side, select] of Object.entries(this.selects)) {
      app.images.forEach((volume, i) => {
        const key = i < 9 ? `${i + 1}  ` : "";
        select.append(element("option", key + volume.name, { value: i }));
      });
      select.addEventListener("change", () => app.choose(side, app.images[select.value]));
    }
    this.pairs = app.pairs.map(([left, right], i) => {
      const button = element("button", `${left} | ${right}`, { type: "button" });
      button.addEventListener("click", () => app.choosePair(i));
      return button;
    });
    if (this.pairs.length > 1) byId("pairs").append(...this.pairs);
    byId("curtain").addEventListener(
      "change", (event) => app.set({ curtain: event.target.checked }));
    byId("split").addEventListener(
      "input", (event) => app.set({ split: Number(event.target.value), curtain: true }));
    byId("swap").addEventListener("click", () => app.swap());
  }

  draw() {
    const { app } = this;
    this.selects.left.value = app.images.indexOf(app.left);
    this.selects.right.value = app.images.indexOf(app.right);
    byId("curtain").checked = app.curtain;
    byId("split").value = app.split;
    this.pairs.forEach((button, i) => {
      const [left, right] = app.pairs[i];
      button.setAttribute("aria-pressed", left === app.left.name && right === app.right.name);
    });
  }
}

// Histogram and window of one grey scale.
class WindowBox {
  constructor(app, key, volumes) {
    this.app = app;
    this.key = key;
    this.volumes = volumes;
    this.low = Math.min(...volumes.map((volume) => volume.range[0]));
    this.high = Math.max(...volumes.map((volume) => volume.range[1]));
    const names = volumes.map((volume) => volume.name).join(", ");
    this.canvas = element("canvas", "", { role: "img" });
    this.fields = ["black", "white"].map((end) => element(
      "input", "", { type: "number", step: "any", "aria-label": `${names}: value shown ${end}` }));
    const ends = element("div", "", { class: "row ends" });
    ends.append(this.fields[0], element("span", volumes[0].unit), this.fields[1]);
    this.node = element("div", "", { class: "window" });
    const caption = element("p", "", { class: "names" });
    volumes.forEach((volume, i) => {
      caption.append(element("span", "", { class: i ? "dashed" : "solid" }), ` ${volume.name}  `);
    });
    this.node.append(caption, this.canvas, ends);
    this.fields.forEach((field, end) => field.addEventListener("change", () => this.edit(end)));
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
  }

  edit(end) {
    const value = this.fields[end].valueAsNumber;
    const window = [...this.app.window(this.volumes[0])];
    if (Number.isFinite(value)) window[end] = value;
    this.fields[end].blur();
    this.app.setWindow(this.volumes[0], window);
  }

  // Drags the nearer edge of the window.
  grab(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const value = ({ clientX }) =>
      this.low + ((clientX - left) / width) * (this.high - this.low);
    const window = [...this.app.window(this.volumes[0])];
    const end = Math.abs(value(event) - window[0]) < Math.abs(value(event) - window[1]) ? 0 : 1;
    drag(this.canvas, event, (moved) => {
      window[end] = value(moved);
      this.app.setWindow(this.volumes[0], window);
    });
  }

  draw() {
    const [low, high] = this.app.window(this.volumes[0]);
    const step = Math.min(...this.volumes.map((volume) => volume.step));
    setField(this.fields[0], low, step);
    setField(this.fields[1], high, step);
    this.canvas.setAttribute(
      "aria-label", `Histogram; black is ${number(low, step)}, white ${number(high, step)}`);
    const { context, width, height } = prepared(this.canvas);
    const x = (value) => ((value - this.low) / (this.high - this.low || 1)) * width;
    context.fillStyle = themed("--shade");
    context.fillRect(0, 0, x(low), height);
    context.fillRect(x(high), 0, width - x(high), height);
    this.volumes.forEach((volume, i) => this.curve(context, volume, x, height, i));
    context.fillStyle = themed("--accent");
    for (const edge of [low, high]) {
      context.fillRect(Math.min(Math.max(x(edge), 1), width - 1) - 1, 0, 2, height);
    }
  }

  // Square roots of the counts, so that rare values are seen.
  curve(context, volume, x, height, nth) {
    const bins = new Float64Array(64);
    for (let code = 0; code <= volume.top; code++) bins[code >> 2] += volume.counts[code];
    // 64 bins of four codes each; the last one has three if a code means "no value".
    if (volume.top === 254) bins[63] *= 4 / 3;
    const greatest = Math.max(...bins);
    context.beginPath();
    bins.forEach((count, bin) => {
      const y = height - 1 - Math.sqrt(count / greatest) * (height - 4);
      const at = x(volume.low + volume.step * (4 * bin + 1.5));
      if (bin) context.lineTo(at, y);
      else context.moveTo(at, y);
    });
    context.setLineDash(nth ? [4, 3] : []);
    context.strokeStyle = themed(nth ? "--second" : "--text");
    context.lineWidth = 1.3;
    context.stroke();
    context.setLineDash([]);
  }
}

class WindowPanel {
  constructor(app) {
    this.app = app;
    this.boxes = [];
    byId("share").addEventListener("change", (event) => app.set({ share: event.target.value }));
    byId("auto").addEventListener("click", () => app.autoWindows());
    byId("full").addEventListener("click", () => app.fullWindows());
  }

  draw() {
    const groups = new Map();
    for (const volume of new Set(this.app.shown)) {
      const key = this.app.group(volume);
      groups.set(key, [...(groups.get(key) || []), volume]);
    }
    const keys = JSON.stringify([...groups].map(([key, all]) => [key, all.map((v) => v.name)]));
    if (keys !== this.keys) {
      this.keys = keys;
      this.boxes = [...groups].map(([key, volumes]) => new WindowBox(this.app, key, volumes));
      byId("windows").replaceChildren(...this.boxes.map((box) => box.node));
    }
    byId("share").value = this.app.share;
    for (const box of this.boxes) box.draw();
  }
}

class OverlayPanel {
  constructor(app) {
    this.app = app;
    this.select = byId("overlay");
    this.select.append(element("option", "nothing", { value: "" }));
    const difference = element("option", "difference: right − left", { value: "difference" });
    if (app.images.length > 1) this.select.append(difference);
    app.maps.forEach((map, i) => this.select.append(element("option", map.name, { value: i })));
    this.select.addEventListener("change", () => app.set({ overlay: this.select.value }));
    byId("opacity").addEventListener(
      "input", (event) => app.set({ opacity: Number(event.target.value) }));
    this.fields = [byId("overlay-low"), byId("overlay-high")];
    this.fields.forEach((field, end) => field.addEventListener("change", () => {
      const range = [...app.overlayRange()];
      if (Number.isFinite(field.valueAsNumber)) range[end] = field.valueAsNumber;
      // Zero stays in the middle of a difference, where the colours are neutral.
      if (app.overlay === "difference") range[1 - end] = -range[end];
      field.blur();
      app.setOverlayRange(range);
    }));
  }

  draw() {
    const { app } = this;
    this.select.value = app.overlay;
    byId("opacity").value = app.opacity;
    byId("overlay-options").hidden = !app.overlay;
    if (!app.overlay) return;
    const range = app.overlayRange(), diverging = app.overlay === "difference";
    const text = diverging ? `blue: ${app.right.name} is less than ${app.left.name}, red: more`
      : [app.overlaid.name, app.overlaid.unit].filter(Boolean).join(", ");
    byId("overlay-text").textContent = text;
    this.fields.forEach((field, end) => setField(field, range[end], app.overlaid.step));
    const { context, width, height } = prepared(byId("legend"));
    for (let x = 0; x < width; x += 6) {
      for (let y = 0; y < height; y += 6) {
        context.fillStyle = (x + y) % 12 ? "#999" : "#666"; // shows how transparent the colours are
        context.fillRect(x, y, 6, 6);
      }
    }
    const image = new ImageData(256, 1);
    new Uint32Array(image.data.buffer).set(overlayColours(diverging, app.opacity));
    const strip = new OffscreenCanvas(256, 1);
    strip.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(strip, 0, 0, width, height);
    const ends = range.map((value) => number(value, app.overlaid.step)).join(" to ");
    byId("legend").setAttribute("aria-label", `Colours of the overlay, from ${ends}`);
  }
}

class Readout {
  constructor(app) {
    this.app = app;
  }

  draw() {
    byId("position").replaceChildren(...this.position());
    const { app } = this;
    const rows = [...app.images, ...app.maps].map((volume) => {
      const voxel = app.gridsDiffer ? `(${this.voxel(volume).join(", ")})` : "";
      const shown = app.shown.includes(volume) || volume === app.overlaid;
      return this.row(volume.name, [voxel, volume.unit], volume.text(app.point), shown);
    });
    if (app.images.length > 1) {
      const { left, right, step } = app.difference;
      const value = number(app.difference.at(app.point), step);
      rows.push(this.row(
        `${right.name} − ${left.name}`, [], value, app.overlay === "difference"));
    }
    byId("values").replaceChildren(...rows);
  }

  // Indices (x, y, z) in the whole volume.
  voxel(volume) {
    return [2, 1, 0].map((axis) => volume.wholeIndex(axis, this.app.point[axis]));
  }

  position() {
    const { app } = this, { finest } = app;
    const [x, y, z] = this.voxel(finest);
    const of = app.gridsDiffer ? ` of ${finest.name}` : "";
    const lengths = [2, 1, 0].map((axis) => app.lengthNumber(app.point[axis])).join(", ");
    const lines = [
      element("b", `Voxel x ${x}, y ${y}, z ${z}${of}`),
      element("span", `at ${lengths} ${app.lengthUnit}`),
    ];
    if (app.unit !== "voxel" || app.gridsDiffer) {
      const edges = [2, 1, 0].map((axis) => app.lengthNumber(finest.voxel[axis]));
      const size = edges.every((edge) => edge === edges[0]) ? edges[0] : edges.join(" × ");
      lines.push(element("span", `voxel size ${size} ${app.lengthUnit}`));
    }
    return lines;
  }

  row(name, remarks, value, shown) {
    const row = element("tr", "", shown ? { class: "shown" } : {});
    const remark = remarks.filter(Boolean).join(" ");
    const head = element("th", (shown ? "▸ " : "") + name, {
      scope: "row", title: `${name} ${remark}`,
    });
    if (remark) head.append(" ", element("small", remark));
    row.append(head, element("td", value));
    return row;
  }
}

// Lists how each layer is stored; called once.
function describeLayers(app) {
  for (const volume of [...app.images, ...app.maps]) {
    const sizes = [...volume.whole].join(" × ");
    const voxel = volume.voxel.map((n, axis) => number(n / volume.binned[axis], 1e-4)).join(" × ");
    const lines = [
      `${sizes} voxels (z × y × x)`,
      `voxel size ${voxel} ${app.unit}`,
      volume.step ? `stored in steps of ${volume.step.toPrecision(3)}, exact to half of that`
        : "one value everywhere",
    ];
    const clipped = volume.below + volume.above;
    if (clipped) {
      const percent = (100 * clipped) / volume.codes.length;
      const ends = [0, volume.top].map((code) => number(volume.value(code), volume.step));
      lines.push(`${clipped} voxels (${percent.toPrecision(2)} %) lie outside ${ends.join(" to ")}`
        + " and are clipped");
    }
    const missing = volume.top < 255 ? volume.counts[255] : 0;
    if (missing) lines.push(`${missing} voxels have no value`);
    const list = element("ul");
    list.append(...lines.map((line) => element("li", line)));
    byId("about").lastElementChild.append(element("b", volume.name), list);
  }
}

// A cleared canvas of the size that the page gives it, drawn on in CSS pixels.
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return { context, width, height };
}
