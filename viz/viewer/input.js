// Mouse, touch and keys.

const NEAR = 9; // pixels from the curtain's line that still grab it
const NOTCH = 40; // wheel travel of a slice, so that touch pads don't rush

// Calls `move(event)` now and for every move until the pointer is released.
function drag(node, event, move) {
  event.preventDefault();
  node.setPointerCapture(event.pointerId);
  const end = () => {
    node.removeEventListener("pointermove", move);
    node.removeEventListener("pointerup", end);
    node.removeEventListener("pointercancel", end);
  };
  node.addEventListener("pointermove", move);
  node.addEventListener("pointerup", end);
  node.addEventListener("pointercancel", end);
  move(event);
}

function listenToView(app, view) {
  const { canvas, plane } = view;
  let travel = 0;
  const nearCurtain = (event) => app.curtain && Math.abs(event.offsetX - view.splitAt) < NEAR;

  canvas.addEventListener("focus", () => app.activate(view));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointermove", (event) => {
    canvas.style.cursor = nearCurtain(event) ? "ew-resize" : "crosshair";
  });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    if (event.button === 1 || event.altKey) {
      pan(app, view, event);
    } else if (event.button === 2 || event.shiftKey) {
      changeWindow(app, view, event);
    } else if (nearCurtain(event)) {
      drag(canvas, event, (moved) => app.set({ split: view.splitFrom(moved.offsetX) }));
    } else {
      drag(canvas, event, (moved) => app.place({
        [plane.u]: view.position(plane.u, moved.offsetX),
        [plane.v]: view.position(plane.v, moved.offsetY),
      }));
    }
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      app.zoomBy(Math.exp(-event.deltaY / 300), {
        [plane.u]: view.position(plane.u, event.offsetX),
        [plane.v]: view.position(plane.v, event.offsetY),
      });
      return;
    }
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : NOTCH;
    // A turn of a mouse's wheel is one slice however far the browser says it goes.
    const turn = Math.min(Math.max(event.deltaY * lines, -NOTCH), NOTCH);
    travel = Math.sign(turn) === Math.sign(travel) ? travel + turn : turn;
    if (Math.abs(travel) >= NOTCH) {
      app.step(plane.w, Math.sign(travel));
      travel = 0;
    }
  }, { passive: false });
}

function pan(app, view, start) {
  const from = [...app.centre], { u, v } = view.plane;
  drag(view.canvas, start, (moved) => {
    app.centre[u] = from[u] - (moved.clientX - start.clientX) / app.pixelsPerLength;
    app.centre[v] = from[v] - (moved.clientY - start.clientY) / app.pixelsPerLength;
    app.set({});
  });
}

// Sideways: the window's width, up and down: its level, of the image under the pointer.
function changeWindow(app, view, start) {
  const volume = app.curtain && start.offsetX > view.splitAt ? app.right : app.left;
  const [low, high] = app.window(volume), middle = (low + high) / 2;
  drag(view.canvas, start, (moved) => {
    const width = (high - low) * Math.exp((moved.clientX - start.clientX) / 150);
    const level = middle + ((moved.clientY - start.clientY) / 300) * (high - low);
    app.setWindow(volume, [level - width / 2, level + width / 2]);
  });
}

function listenToKeys(app) {
  const keys = {
    ",": () => app.set({ curtain: true, split: Math.max(0, app.split - 0.05) }),
    ".": () => app.set({ curtain: true, split: Math.min(1, app.split + 0.05) }),
    "+": () => app.zoomBy(1.25),
    "=": () => app.zoomBy(1.25),
    "-": () => app.zoomBy(1 / 1.25),
    0: () => app.fit(),
    "?": () => byId("help").showModal(),
    a: () => app.autoWindows(),
    c: () => app.set({ curtain: !app.curtain }),
    d: () => app.set({ overlay: app.overlay === "difference" ? "" : "difference" }),
    h: () => app.set({ crosshair: !app.crosshair }),
    o: () => app.nextOverlay(),
    p: () => app.nextPair(),
    r: () => app.reset(),
    w: () => app.fullWindows(),
    x: () => app.swap(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const { target } = event;
    if (target.matches("input[type=number]") && event.key !== "?") return;
    // Sliders and lists keep the keys that move them.
    const moves = /^(Arrow|Page|Home|End)/.test(event.key);
    if (target.matches("input[type=range], select") && moves) return;
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
    const action = digit ? () => chooseByKey(app, Number(digit[1]), event.shiftKey)
      : keys[event.key] || moveByKey(app, event);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function chooseByKey(app, nth, right) {
  const volume = app.images[nth - 1];
  if (volume) app.choose(right ? "right" : "left", volume);
}

function moveByKey(app, { key, shiftKey }) {
  const { u, v, w } = app.active.plane, far = shiftKey ? 10 : 1;
  const moves = {
    ArrowLeft: [u, -far],
    ArrowRight: [u, far],
    ArrowUp: [v, -far],
    ArrowDown: [v, far],
    PageUp: [w, -far],
    PageDown: [w, far],
    Home: [w, -Infinity],
    End: [w, Infinity],
  };
  return moves[key] && (() => app.step(...moves[key]));
}
