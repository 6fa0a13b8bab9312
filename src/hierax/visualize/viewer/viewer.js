"use strict";
// The viewer: what is shown, how pointer and keys move the probe, and the pictures that follow.

/**
 * Images beside each other with the maps of one stage over them.
 *
 * The probe is the cell under the pointer. Pinned, it stays, and the pointer moves the reader, whose cosine with the
 * probe stands in digits. Every move works by keyboard as well.
 */
Hierax.Viewer = class {
  static #opened = 0;

  /** Build a viewer inside an element; `data` is what `data.view_data` made. */
  static async open(root, data) {
    const viewer = new Hierax.Viewer(root, data);
    await viewer.#start();
    return viewer;
  }

  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.id = Hierax.Viewer.#opened++;
    const coarse = data.stages.filter((stage) => stage.stride <= 16);
    this.stage = coarse.length ? coarse[coarse.length - 1] : data.stages[0];
    this.opened = new Map(); // cells of the stages that were shown
    this.state = {
      stage: this.stage.name, layer: "similarity", strength: 0.75, cells: false, windows: false, units: false,
      fixed: false, digits: true, most: 5, others: false, pinned: false, reader: null,
      probe: {image: 0, row: this.stage.rows >> 1, column: this.stage.columns >> 1},
    };
  }

  async #start() {
    if (!("DecompressionStream" in window)) {
      this.root.textContent = "This browser is too old for this page: it has no DecompressionStream. Use one of 2023 or later.";
      return;
    }
    this.panes = await Promise.all(this.data.images.map((image, index) => this.#pane(image, index)));
    this.reading = new Hierax.Reading(this);
    const missing = this.data.missing.map(({name, reason}) => Hierax.make("li", {}, Hierax.make("b", {}, name), ` ${reason}`));
    this.root.replaceChildren(Hierax.controls(this), Hierax.make("div", {class: "sides"},
      Hierax.make("div", {class: "pictures"}, ...this.panes.map((pane) => pane.element),
        ...(missing.length ? [Hierax.make("ul", {class: "missing", "aria-label": "Images that could not be read"}, ...missing)] : [])),
      this.reading.element));
    this.watch = new ResizeObserver(() => this.#fit());
    for (const pane of this.panes) this.watch.observe(pane.canvas);
    await this.setStage(this.state.stage);
    this.root.dataset.ready = "yes";
  }

  /** Take no more notice of the page; whoever opened the viewer may put another in its place. */
  close() {
    this.watch?.disconnect();
    cancelAnimationFrame(this.asked);
    this.asked = -1; // nothing is drawn any more
  }

  /** Change what is shown. */
  set(changes) {
    Object.assign(this.state, changes);
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = 0;
      this.#compute();
      this.#draw();
      this.reading.show();
    });
  }

  /** Show another stage: probe and reader stay at the same place of the image. */
  async setStage(name) {
    const stage = this.data.stages.find((each) => each.name === name);
    if (!this.opened.has(name)) this.opened.set(name, Hierax.Cells.of(stage));
    const cells = await this.opened.get(name);
    const moved = (at) => at && {
      image: at.image,
      row: Math.floor(((at.row + 0.5) * stage.rows) / this.stage.rows),
      column: Math.floor(((at.column + 0.5) * stage.columns) / this.stage.columns),
    };
    const [probe, reader] = [moved(this.state.probe), moved(this.state.reader)];
    [this.stage, this.cells] = [stage, cells];
    for (const radio of this.root.querySelectorAll(`input[name="stage-${this.id}"]`)) radio.checked = radio.value === name;
    for (const pane of this.panes) pane.label(stage);
    this.reading.showFacts();
    this.set({stage: name, probe, reader});
  }

  /** Show other numbers. Colours that mean something by themselves hide the image, which would tint them. */
  setLayer(layer) {
    const strength = layer === "similarity" ? 0.75 : 1;
    this.root.querySelector("input[name=strength]").value = 100 * strength;
    this.set({layer, strength});
  }

  /** Pin the probe, or let it go. */
  pin(pinned = !this.state.pinned) {
    this.set({pinned, reader: pinned ? {...this.state.probe} : null});
  }

  /** Move the probe, or the reader where the probe is pinned, to a cell. */
  moveTo(image, row, column) {
    const to = {image, row: Math.min(this.stage.rows - 1, Math.max(0, row)),
      column: Math.min(this.stage.columns - 1, Math.max(0, column))};
    this.set(this.state.pinned ? {reader: to} : {probe: to});
  }

  /** Move to one of the nearest cells. */
  goTo({image, cell}) {
    this.moveTo(image, Math.floor(cell / this.stage.columns), cell % this.stage.columns);
  }

  /** A place in words: `cell` is its number, `text` has the image's name, `short` its letter. */
  place({image, row, column}) {
    const letter = Hierax.letter(image);
    return {cell: row * this.stage.columns + column, short: `${letter} ${row}, ${column}`,
      text: `${letter} ${this.data.images[image].name}, row ${row}, column ${column}`};
  }

  /** The same of one of the nearest cells. */
  placed({image, cell}) {
    return this.place({image, row: Math.floor(cell / this.stage.columns), column: cell % this.stage.columns});
  }

  /** Write what is shown as one PNG. */
  exported() {
    Hierax.exportPicture(this);
  }

  /** What is drawn over an image, for `drawPane`. */
  pane(image) {
    const {state, stage, cells} = this;
    const lines = [];
    if (state.cells) lines.push({step: [1, 1], dash: [], colour: "rgba(255, 255, 255, 0.55)"});
    if (state.windows && stage.window) lines.push({step: stage.window, dash: [], colour: "#ffffff"});
    if (state.units) lines.push({step: stage.unit, dash: [6, 5], colour: "#ffb54a"});
    const values = {similarity: this.cosines[image], norms: cells.norms[image]}[state.layer];
    const at = (each) => ({row: Math.floor(each.cell / stage.columns), column: each.cell % stage.columns});
    const marks = this.near.flatMap((each, rank) =>
      each.image === image ? [{...at(each), kind: "near", label: String(rank + 1)}] : []);
    if (state.probe.image === image) marks.push({...state.probe, kind: "probe"});
    if (state.pinned && state.reader && state.reader.image === image) marks.push({...state.reader, kind: "reader"});
    return {
      picture: this.panes[image].picture, rows: stage.rows, columns: stage.columns, lines, marks,
      strength: state.strength, cells: this.layers[image],
      text: state.digits && values ? (cell) => values[cell].toFixed(values[cell] >= 10 ? 1 : 2) : null,
    };
  }

  #compute() {
    const {state, stage, cells} = this;
    const own = this.place(state.probe).cell;
    this.cosines = cells.cosines(state.probe.image, own);
    this.near = cells.nearest(this.cosines, state.most,
      (image, cell) => image === state.probe.image && (state.others || cell === own));
    this.range = [0, 1];
    if (state.layer === "similarity") {
      const least = (values) => values.reduce((low, value) => Math.min(low, value), 1);
      this.range = state.fixed ? [-1, 1] : [Math.min(...this.cosines.map(least)), 1];
    } else if (state.layer === "norms") {
      this.range = stage.norm_range;
    }
    const [low, high] = this.range;
    const values = {similarity: this.cosines, norms: cells.norms}[state.layer];
    const scaled = (image) => (cell) => Hierax.colour((values[image][cell] - low) / (high - low || 1));
    const coloured = (image) => (cell) => cells.colours[image].subarray(3 * cell, 3 * cell + 3);
    this.layers = this.panes.map((_, image) => state.layer === "image" ? null
      : Hierax.cellsCanvas(stage.rows, stage.columns, values ? scaled(image) : coloured(image)));
  }

  #draw() {
    this.panes.forEach((pane, image) => {
      if (!pane.canvas.width) return;
      const context = pane.canvas.getContext("2d");
      Hierax.drawPane(context, this.pane(image), pane.canvas.width / Math.max(1, pane.canvas.clientWidth));
    });
  }

  /** Give every canvas the pixels that the screen has for it. */
  #fit() {
    for (const {canvas, image} of this.panes) {
      const width = Math.min(2048, Math.max(1, Math.round(canvas.clientWidth * window.devicePixelRatio)));
      if (canvas.width !== width) [canvas.width, canvas.height] = [width, Math.round((width * image.height) / image.width)];
    }
    if (this.cells) this.set({});
  }

  async #pane(image, index) {
    const {make} = Hierax;
    const picture = new Image();
    picture.src = image.picture;
    await picture.decode();
    const canvas = make("canvas", {tabindex: 0, role: "application", "aria-roledescription": "feature map",
      "aria-describedby": `keys-${this.id}`});
    canvas.style.aspectRatio = `${image.width} / ${image.height}`;
    const cellAt = (event) => [index,
      Math.floor((event.offsetY / canvas.clientHeight) * this.stage.rows),
      Math.floor((event.offsetX / canvas.clientWidth) * this.stage.columns)];
    canvas.addEventListener("pointermove", (event) => this.moveTo(...cellAt(event)));
    canvas.addEventListener("pointerdown", (event) => this.moveTo(...cellAt(event)));
    canvas.addEventListener("click", (event) => this.#clicked(event, cellAt(event)));
    canvas.addEventListener("keydown", (event) => this.#pressed(event, index));
    canvas.addEventListener("focus", () => this.#focused(canvas, index));
    const caption = make("figcaption", {}, make("b", {}, Hierax.letter(index)), ` ${image.name} `,
      make("span", {class: "faint"}, `${image.width} \u00d7 ${image.height} px`));
    const label = (stage) => canvas.setAttribute("aria-label",
      `${Hierax.letter(index)} ${image.name}, ${stage.name}: ${stage.rows} rows and ${stage.columns} columns of cells`);
    return {element: make("figure", {}, canvas, caption), canvas, picture, image, label};
  }

  /** A click pins the probe; on the pinned cell it lets go, elsewhere it pins that cell. A finger only points. */
  #clicked(event, [image, row, column]) {
    if (event.pointerType === "touch") return;
    const {probe, pinned} = this.state;
    const same = probe.image === image && probe.row === row && probe.column === column;
    if (pinned && same) return this.pin(false);
    this.set({probe: {image, row, column}});
    this.pin(true);
  }

  /** Arriving at an image by keyboard moves the probe there, to the same place. */
  #focused(canvas, index) {
    const at = this.#moving();
    if (canvas.matches(":focus-visible") && at.image !== index) this.moveTo(index, at.row, at.column);
  }

  #moving() {
    return (this.state.pinned && this.state.reader) || this.state.probe;
  }

  #pressed(event, index) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const {row, column} = this.#moving();
    const [down, across] = event.shiftKey ? this.stage.window || this.stage.unit : [1, 1];
    const to = (y, x) => () => this.moveTo(index, y, x);
    const actions = {
      ArrowUp: to(row - down, column), ArrowDown: to(row + down, column),
      ArrowLeft: to(row, column - across), ArrowRight: to(row, column + across),
      Home: to(row, 0), End: to(row, this.stage.columns - 1),
      PageUp: to(0, column), PageDown: to(this.stage.rows - 1, column),
      Enter: () => this.pin(), " ": () => this.pin(), Escape: () => this.pin(false),
      n: () => this.near.length && this.goTo(this.near[0]), e: () => this.exported(),
    };
    const stage = this.data.stages.find(({name}) => name === `stage${event.key}`);
    const action = stage ? () => this.setStage(stage.name) : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
};

/** A, B, ..., Z, AA, ... */
Hierax.letter = (index) => (index < 26 ? "" : Hierax.letter(Math.floor(index / 26) - 1)) + String.fromCharCode(65 + (index % 26));
