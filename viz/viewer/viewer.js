// The viewer: its state, with images and crosshair, and the parts that draw it.

class Viewer {
  constructor(about, volumes) {
    this.unit = about.unit;
    this.images = volumes.filter((volume) => volume.kind === "image");
    this.maps = volumes.filter((volume) => volume.kind === "map");
    this.pairs = about.pairs;
    this.box = {
      low: [0, 1, 2].map((a) => Math.min(...volumes.map((volume) => volume.origin[a]))),
      high: [0, 1, 2].map((a) => Math.max(...volumes.map((volume) => volume.end[a]))),
    };
    this.gridsDiffer = new Set(volumes.map((volume) => volume.shape.join())).size > 1;
    const longest = Math.max(...this.box.high);
    this.perUnit = this.unit === "µm" && longest >= 10000 ? 1000 : 1;
    this.lengthUnit = this.unit === "voxel" ? "voxels" : this.perUnit > 1 ? "mm" : this.unit;
    this.views = Object.values(PLANES).map((plane) => new View(plane, this));
    this.active = this.views[0];
    this.panels = [ImagePanel, WindowPanel, OverlayPanel, Readout].map((Panel) => new Panel(this));
    this.start();
  }

  // Sets everything to its initial state.
  start() {
    const [left, right] = this.pairs[0] || [];
    const named = (name) => this.images.find((volume) => volume.name === name);
    this.left = named(left) || this.images[0];
    this.right = named(right) || this.images[1] || this.images[0];
    this.curtain = this.left !== this.right;
    this.split = 0.5;
    this.overlay = "";
    this.opacity = 0.7;
    this.crosshair = true;
    this.share = "domain";
    this.windows = new Map();
    this.overlayRanges = new Map();
    this.zoom = 1;
    this.centre = this.box.low.map((low, axis) => (low + this.box.high[axis]) / 2);
    this.point = this.snapped(this.centre);
  }

  reset() {
    this.start();
    this.set({});
  }

  // --- images shown ---

  get shown() {
    return this.curtain || this.overlay === "difference" ? [this.left, this.right] : [this.left];
  }

  // The shown image whose voxels are counted and stepped through.
  get finest() {
    return this.shown.reduce((a, b) => (b.codes.length > a.codes.length ? b : a));
  }

  // Changes fields and draws what follows from them, once before the next picture on the screen.
  set(changes) {
    Object.assign(this, changes);
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  choose(side, volume) {
    this.set({ [side]: volume });
    if (side === "right" && !this.curtain && this.overlay !== "difference") {
      this.set({ curtain: true });
    }
  }

  choosePair(i) {
    const [left, right] = this.pairs[i].map((name) => this.images.find((v) => v.name === name));
    this.set({ left, right });
  }

  nextPair() {
    if (!this.pairs.length) return;
    const now = this.pairs.findIndex(([l, r]) => l === this.left.name && r === this.right.name);
    this.choosePair((now + 1) % this.pairs.length);
  }

  swap() {
    this.set({ left: this.right, right: this.left });
  }

  // --- grey scale ---

  group(volume) {
    if (this.share === "all") return "all";
    if (this.share === "domain" && volume.domain) return `domain ${volume.domain}`;
    return `image ${volume.name}`;
  }

  window(volume) {
    const key = this.group(volume);
    if (!this.windows.has(key)) this.windows.set(key, this.spread(volume, 0.5, 99.5));
    return this.windows.get(key);
  }

  // From the least to the greatest percentile of all images with this one's grey scale.
  spread(volume, least, greatest) {
    const all = this.images.filter((other) => this.group(other) === this.group(volume));
    const ends = all.map((other) => other.percentiles(least, greatest));
    return [Math.min(...ends.map((end) => end[0])), Math.max(...ends.map((end) => end[1]))];
  }

  setWindow(volume, [low, high]) {
    const { step } = volume;
    if (high - low < step) high = low + step;
    this.windows.set(this.group(volume), [low, high]);
    this.set({});
  }

  autoWindows() {
    for (const volume of this.shown) this.setWindow(volume, this.spread(volume, 0.5, 99.5));
  }

  fullWindows() {
    for (const volume of this.shown) this.setWindow(volume, this.spread(volume, 0, 100));
  }

  // --- overlay ---

  get difference() {
    if (this.made?.left !== this.left || this.made?.right !== this.right) {
      this.made = new Difference(this.left, this.right);
    }
    return this.made;
  }

  // The layer over the images: a map, the difference or undefined.
  get overlaid() {
    return this.overlay === "difference" ? this.difference : this.maps[this.overlay];
  }

  get overlayKey() {
    const { left, right } = this;
    return this.overlay === "difference" ? `${left.name} ${right.name}` : this.overlay;
  }

  overlayRange() {
    if (!this.overlayRanges.has(this.overlayKey)) {
      const { overlaid } = this;
      if (this.overlay === "difference") this.setOverlayRange([-overlaid.limit, overlaid.limit]);
      else {
        const [low, high] = overlaid.percentiles(0, 99.5);
        this.setOverlayRange([Math.min(0, low), high]);
      }
    }
    return this.overlayRanges.get(this.overlayKey);
  }

  setOverlayRange([low, high]) {
    this.overlayRanges.set(this.overlayKey, low < high ? [low, high] : [low, low + 1e-6]);
    this.set({});
  }

  nextOverlay() {
    const all = ["", ...(this.images.length > 1 ? ["difference"] : []), ...Object.keys(this.maps)];
    this.set({ overlay: all[(all.indexOf(this.overlay) + 1) % all.length] });
  }

  overlaySlice(plane, position) {
    const { overlaid } = this;
    if (!overlaid) return null;
    const table = overlayColours(this.overlay === "difference", this.opacity);
    const range = this.overlayRange();
    if (this.overlay === "difference") {
      return { grid: overlaid.grid, canvas: overlaid.slice(plane, position, table, range) };
    }
    const colours = mapColours(overlaid, table, range);
    return { grid: overlaid, canvas: volumeSlice(overlaid, plane, position, colours) };
  }

  // --- crosshair and zoom ---

  // The middle of the voxel at a point, kept inside the volume.
  snapped(point) {
    const { origin, voxel, shape } = this.finest;
    return point.map((position, axis) => {
      const index = Math.floor((position - origin[axis]) / voxel[axis] + 1e-6);
      return origin[axis] + (Math.min(Math.max(index, 0), shape[axis] - 1) + 0.5) * voxel[axis];
    });
  }

  // Moves the crosshair to the positions {axis: position}.
  place(positions) {
    this.point = this.snapped(Object.assign([...this.point], positions));
    this.follow();
    this.set({});
  }

  // Moves to the slice with an index of the finest image shown.
  moveTo(axis, index) {
    const { origin, voxel } = this.finest;
    this.place({ [axis]: origin[axis] + (index + 0.5) * voxel[axis] });
  }

  step(axis, voxels) {
    const far = this.finest.shape[axis];
    this.moveTo(axis, this.finest.index(axis, this.snapped(this.point)[axis])
      + Math.min(Math.max(voxels, -far), far));
  }

  zoomBy(factor, about = this.point) {
    const before = this.zoom;
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), 40);
    for (const axis of Object.keys(about)) {
      this.centre[axis] = about[axis] + (this.centre[axis] - about[axis]) * (before / this.zoom);
    }
    if (this.zoom === 1) this.fit();
    this.set({});
  }

  fit() {
    this.zoom = 1;
    this.centre = this.box.low.map((low, axis) => (low + this.box.high[axis]) / 2);
    this.set({});
  }

  // Brings the crosshair back into every view.
  follow() {
    if (this.zoom === 1) return;
    for (const view of this.views) {
      for (const [axis, size] of [[view.plane.u, view.width], [view.plane.v, view.height]]) {
        const at = view.screen(axis, this.point[axis]);
        if (at < 0 || at > size) this.centre[axis] = this.point[axis];
      }
    }
  }

  activate(view) {
    this.active = view;
    for (const other of this.views) other.figure.classList.toggle("active", other === view);
  }

  // --- text and drawing ---

  // A length as a number in the unit that the page uses throughout.
  lengthNumber(length) {
    return String(Number((length / this.perUnit).toPrecision(5)));
  }

  length(length) {
    if (this.unit === "voxel") return `${length} voxel${length === 1 ? "" : "s"}`;
    return length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
  }

  draw() {
    this.point = this.snapped(this.point);
    this.pixelsPerLength = Math.min(...this.views.map((view) => view.resize())) * this.zoom;
    for (const view of this.views) view.draw();
    for (const panel of this.panels) panel.draw();
    byId("zoom").textContent = `${Math.round(100 * this.zoom)} %`;
  }
}

// The views take the proportions of the volume; the values beside them get some room.
function layOut(app) {
  const [z, y, x] = [0, 1, 2].map((axis) => app.box.high[axis] - app.box.low[axis]);
  byId("views").style.gridTemplateColumns = `minmax(0, ${x / z}fr) minmax(200px, 1fr)`;
  byId("views").style.gridTemplateRows = `minmax(0, ${y / z}fr) minmax(190px, 1fr)`;
}

async function main() {
  const about = JSON.parse(byId("page-data").textContent);
  byId("note").textContent = about.note;
  byId("reduced").textContent = about.reduced.map((text) => `${text}.`).join(" ");
  byId("reduced").hidden = !about.reduced.length;
  const volumes = await Promise.all(about.layers.map((layer, i) => {
    const payload = byId(`layer-${i}`);
    const unpacked = Volume.unpack(layer, payload.textContent);
    payload.remove();
    return unpacked;
  }));
  byId("viewer").hidden = false;
  const app = new Viewer(about, volumes);
  layOut(app);
  describeLayers(app);
  app.views.forEach((view) => listenToView(app, view));
  app.activate(app.views[0]);
  listenToKeys(app);
  byId("zoom-in").addEventListener("click", () => app.zoomBy(1.25));
  byId("zoom-out").addEventListener("click", () => app.zoomBy(1 / 1.25));
  byId("fit").addEventListener("click", () => app.fit());
  byId("reset").addEventListener("click", () => app.reset());
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  // Not <form method="dialog">: MLflow's sandbox forbids forms.
  byId("close-help").addEventListener("click", () => byId("help").close());
  new ResizeObserver(() => app.set({})).observe(byId("viewer"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => app.set({}));
  app.draw();
}

main().catch((error) => {
  const old = typeof DecompressionStream === "undefined";
  byId("failure").textContent = old
    ? "This browser is too old for the viewer; it needs Chrome 105, Firefox 121 or Safari 16.4."
    : `The volumes can't be shown: ${error.message}`;
  byId("failure").hidden = false;
  throw error;
});
