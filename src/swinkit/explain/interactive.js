"use strict";
// Attention of one token on the picture. The arithmetic is that of mapping.py: a token's window and its place in it after the shift.
(async () => {
  const get = (name) => document.getElementById(`attention-${name}`);
  const facts = JSON.parse(get("data").textContent);
  const [height, width] = facts.image;
  const state = { block: facts.start, head: -1, query: facts.query, strength: 0.75 }; // head -1: the mean

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const colours = bytes(facts.colours);
  const file = bytes(facts.data);
  let offset = 0;
  for (const block of facts.blocks) {
    block.file = file.subarray(offset, offset + block.bytes);
    offset += block.bytes;
  }

  async function unpack(block) {
    if (!block.values) {
      const stream = new Blob([block.file]).stream().pipeThrough(new DecompressionStream("deflate"));
      block.values = new Uint8Array(await new Response(stream).arrayBuffer());
    }
  }

  const modulo = (a, n) => ((a % n) + n) % n;
  const side = (block) => facts.patch.map((patch) => patch * 2 ** block.stage);
  const tokenAt = (block, pixel) => pixel.map((at, axis) => Math.min(Math.floor(at / side(block)[axis]), block.grid[axis] - 1));

  function place(block, token) {
    const moved = token.map((at, axis) => modulo(at - block.shift[axis], block.padded[axis]));
    const inside = moved.map((at, axis) => at % block.window[axis]);
    const window = moved.map((at, axis) => Math.floor(at / block.window[axis]));
    return { moved, window, n: inside[0] * block.window[1] + inside[1], g: window[0] * (block.padded[1] / block.window[1]) + window[1] };
  }

  // Where the tokens of a window lie on the map, along one axis.
  const along = (block, window, axis) =>
    Array.from({ length: block.window[axis] }, (_, i) => (window[axis] * block.window[axis] + i + block.shift[axis]) % block.padded[axis]);

  // (H' x W') shares of one head, or the mean of all: they sum to one.
  function shares(block, head, token) {
    const { g, n, window } = place(block, token);
    const count = block.window[0] * block.window[1];
    const heads = head < 0 ? Array.from({ length: block.heads }, (_, k) => k) : [head];
    const out = new Float64Array(block.padded[0] * block.padded[1]);
    const rows = along(block, window, 0), columns = along(block, window, 1);
    for (const k of heads) {
      const start = ((g * block.heads + k) * count + n) * count;
      const row = block.values.subarray(start, start + count);
      const sum = row.reduce((a, b) => a + b, 0) * heads.length;
      row.forEach((value, i) => {
        out[rows[Math.floor(i / block.window[1])] * block.padded[1] + columns[i % block.window[1]]] += value / sum;
      });
    }
    return out;
  }

  function onMap(block, all) {
    const [rows, columns] = block.grid;
    const values = new Float64Array(rows * columns);
    for (let y = 0; y < rows; y++) values.set(all.subarray(y * block.padded[1], y * block.padded[1] + columns), y * columns);
    const sum = values.reduce((a, b) => a + b, 0);
    return { rows, columns, values, padding: Math.max(0, 1 - sum), largest: values.reduce((a, b) => Math.max(a, b), 0) }; // a map may have more values than a call takes
  }

  const picture = new Image();
  picture.src = facts.picture;
  const canvas = get("canvas"), lines = get("lines"), stage = get("stage");
  canvas.width = width;
  canvas.height = height;
  canvas.classList.toggle("pixels", Math.max(width, height) <= 160);
  lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
  lines.setAttribute("preserveAspectRatio", "none");
  let grey;

  function readGrey() {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    grey = Float32Array.from({ length: width * height }, (_, i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
  }

  // As blending.py: grey picture, coloured where there is heat.
  function paint(block, map, strength) {
    const pixels = new ImageData(width, height);
    const [tall, broad] = side(block);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const row = Math.floor(y / tall), column = Math.floor(x / broad), at = 4 * (y * width + x);
        const value = row < map.rows && column < map.columns ? map.values[row * map.columns + column] / (map.largest || 1) : 0;
        const colour = 3 * Math.round(value * 255), hidden = strength * Math.sqrt(value);
        for (let c = 0; c < 3; c++) pixels.data[at + c] = (1 - hidden) * 0.85 * grey[y * width + x] + hidden * colours[colour + c];
        pixels.data[at + 3] = 255;
      }
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  // One head inside the window, as the window lies after the shift.
  function paintWindow(target, block, token, all) {
    const { window } = place(block, token), pixels = new ImageData(block.window[1], block.window[0]);
    const rows = along(block, window, 0), columns = along(block, window, 1);
    const values = rows.flatMap((y) => columns.map((x) => all[y * block.padded[1] + x]));
    const largest = Math.max(...values) || 1;
    values.forEach((value, i) => {
      const colour = 3 * Math.round((value / largest) * 255);
      pixels.data.set([colours[colour], colours[colour + 1], colours[colour + 2], 255], 4 * i);
    });
    target.getContext("2d").putImageData(pixels, 0, 0);
  }

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  // Runs of neighbouring places along an axis: [first, last + 1], cut to the map, each with its side of the seam.
  function runs(block, window, axis) {
    const found = [];
    along(block, window, axis).forEach((at, i) => {
      const wrapped = window[axis] * block.window[axis] + i >= block.padded[axis] - block.shift[axis];
      const last = found[found.length - 1];
      if (last && last.to === at && last.wrapped === wrapped) last.to = at + 1;
      else found.push({ from: at, to: at + 1, wrapped });
    });
    return found.filter((run) => run.from < block.grid[axis]);
  }

  function outline(block, token) {
    lines.replaceChildren();
    const { window, moved } = place(block, token), [tall, broad] = side(block);
    const beyond = [0, 1].map((axis) => moved[axis] >= block.padded[axis] - block.shift[axis]);
    for (const r of runs(block, window, 0)) {
      for (const c of runs(block, window, 1)) {
        const box = {
          y: r.from * tall, x: c.from * broad,
          height: Math.min(r.to * tall, height) - r.from * tall, width: Math.min(c.to * broad, width) - c.from * broad,
        };
        const same = r.wrapped === beyond[0] && c.wrapped === beyond[1];
        lines.append(svg("rect", { ...box, class: "under" }), svg("rect", { ...box, class: same ? "piece" : "piece apart" }));
      }
    }
    const centre = { cy: Math.min((token[0] + 0.5) * tall, height - 1), cx: Math.min((token[1] + 0.5) * broad, width - 1) };
    const radius = Math.max(width, height) / 60;
    lines.append(svg("ellipse", { ...centre, rx: radius, ry: radius, class: "under" }), svg("ellipse", { ...centre, rx: radius, ry: radius, class: "piece" }));
  }

  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
  const headName = (block, head) => (block.averaged ? "all heads averaged" : head < 0 ? "mean over heads" : `head ${head}`);

  function words(block, token, map) {
    const shift = block.shift.some((s) => s) ? `shifted by ${block.shift.join(" and ")}` : "not shifted";
    const padding = map.padding > 0.0005 ? ` ${percent(map.padding)} went to padding.` : "";
    get("words").textContent =
      `Row ${token[0]}, column ${token[1]} of ${block.grid[0]} x ${block.grid[1]} tokens; windows of ${block.window.join(" x ")}, ${shift}; ` +
      `${headName(block, state.head)}. The brightest token gets ${percent(map.largest)}.${padding}`;
  }

  let current = null;
  async function draw() {
    const block = facts.blocks[state.block];
    await unpack(block);
    if (block !== facts.blocks[state.block]) return;
    const token = tokenAt(block, state.query);
    current = onMap(block, shares(block, state.head, token));
    paint(block, current, state.strength);
    outline(block, token);
    words(block, token, current);
    for (const button of get("heads").children) {
      const head = Number(button.dataset.head);
      button.setAttribute("aria-pressed", String(head === state.head));
      paintWindow(button.firstChild, block, token, shares(block, head, token));
    }
    stage.dataset.drawn = `${block.stage}.${block.block}/${state.head}/${token.join(",")}`;
  }

  function buttons() {
    const block = facts.blocks[state.block];
    const heads = block.heads > 1 ? [-1, ...Array(block.heads).keys()] : [-1];
    get("heads").replaceChildren(
      ...heads.map((head) => {
        const button = document.createElement("button"), small = document.createElement("canvas");
        [small.height, small.width] = block.window;
        button.type = "button";
        button.dataset.head = head;
        button.append(small, document.createTextNode(head < 0 ? (block.averaged ? "averaged" : "mean") : String(head)));
        button.setAttribute("aria-label", headName(block, head));
        button.addEventListener("click", () => { state.head = head; draw(); });
        return button;
      }),
    );
    if (state.head >= block.heads) state.head = -1;
  }

  function choose(index) {
    state.block = index;
    get("block").value = String(index);
    buttons();
    return draw();
  }

  function moveTo(event) {
    const box = stage.getBoundingClientRect();
    const at = [((event.clientY - box.top) / box.height) * height, ((event.clientX - box.left) / box.width) * width];
    state.query = at.map((value, axis) => Math.max(0, Math.min(Math.floor(value), facts.image[axis] - 1)));
    draw();
  }

  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    stage.focus({ preventScroll: true });
    event.preventDefault();
    moveTo(event);
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) moveTo(event); });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  stage.addEventListener("keydown", (event) => {
    const step = steps[event.key], block = facts.blocks[state.block];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const token = tokenAt(block, state.query);
    state.query = token.map((at, axis) => {
      const next = Math.max(0, Math.min(at + step[axis] * (event.shiftKey ? block.window[axis] : 1), block.grid[axis] - 1));
      return Math.min(next * side(block)[axis] + Math.floor(side(block)[axis] / 2), facts.image[axis] - 1);
    });
    draw();
  });

  facts.blocks.forEach((block, index) => {
    const shift = block.shift.some((s) => s) ? ", shifted" : "";
    get("block").add(new Option(`stage ${block.stage}, block ${block.block}${shift} (${block.grid[0]} x ${block.grid[1]} tokens)`, index));
  });
  get("block").addEventListener("change", (event) => choose(Number(event.target.value)));
  get("strength").addEventListener("input", (event) => { state.strength = event.target.value / 100; draw(); });
  window.swinkitAttention = { state, map: () => ({ ...current, values: Array.from(current.values) }), choose, draw };
  try {
    await picture.decode();
    readGrey();
    get("board").hidden = false;
    await choose(facts.start);
  } catch (error) {
    get("trouble").textContent = `The attention cannot be shown in this browser (${error.message}); any browser from 2023 on can.`;
    get("trouble").hidden = false;
  }
})();
