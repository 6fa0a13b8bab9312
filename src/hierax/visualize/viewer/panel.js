"use strict";
// What stands around the pictures: the controls above them, and beside them what the probe says in digits.

/** An element with attributes (functions become listeners) and children. */
Hierax.make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

Hierax.digits = (value) => value.toFixed(3).replace("-", "\u2212");
Hierax.rounded = (value) => Number(value.toPrecision(4)).toString();
Hierax.percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

/** One of several, as radio buttons that look like a switch. */
Hierax.choice = (title, name, options, chosen, changed) => {
  const {make} = Hierax;
  const labels = options.map(({value, text, detail}) => make("label", {},
    make("input", {type: "radio", name, value, checked: value === chosen, change: () => changed(value)}),
    make("span", {}, text, detail ? make("small", {}, ` ${detail}`) : "")));
  return make("fieldset", {class: "choice"}, make("legend", {}, title), make("div", {}, ...labels));
};

/** Yes or no. */
Hierax.tick = (text, name, checked, changed) => Hierax.make("label", {class: `tick ${name}`},
  Hierax.make("input", {type: "checkbox", name, checked, change: (event) => changed(event.target.checked)}), text);

Hierax.KEYS = [
  ["Tab", "to the next image"], ["arrows", "move by a cell"], ["Shift + arrows", "move by a window"],
  ["Home, End", "first and last column"], ["Page Up, Page Down", "first and last row"],
  ["Enter or click", "pin the probe, then read other cells"], ["Esc", "let it go"], ["N", "to the nearest cell"],
  ["1 to 4", "stage"], ["E", "export the picture"],
];

/** The controls of a viewer; each changes the viewer's state and has it drawn anew. */
Hierax.controls = (viewer) => {
  const {make, choice, tick} = Hierax;
  const {state, data, id} = viewer;
  const set = (key) => (value) => viewer.set({[key]: value});
  const stages = data.stages.map((stage) => (
    {value: stage.name, text: stage.name, detail: `${stage.rows}\u00d7${stage.columns}`}));
  const layers = [["similarity", "similarity"], ["colours", "PCA"], ["norms", "norms"], ["image", "image"]];
  const strength = make("input", {type: "range", name: "strength", min: 0, max: 100, value: 100 * state.strength,
    input: (event) => viewer.set({strength: event.target.value / 100})});
  return make("div", {class: "controls"},
    choice("Stage", `stage-${id}`, stages, state.stage, (name) => viewer.setStage(name)),
    choice("Show", `layer-${id}`, layers.map(([value, text]) => ({value, text})), state.layer, (layer) => viewer.setLayer(layer)),
    make("label", {class: "range"}, make("span", {}, "Over the image"), strength),
    make("fieldset", {}, make("legend", {}, "Draw"), make("div", {class: "ticks"},
      tick("cells", "cells", state.cells, set("cells")),
      tick("windows", "windows", state.windows, set("windows")),
      tick("mask units", "units", state.units, set("units")),
      tick("digits", "digits", state.digits, set("digits")))));
};

/** What the probe says: a heading, the value read, the nearest cells, the scale of colours, facts of the stage. */
Hierax.Reading = class {
  constructor(viewer) {
    const {make, tick} = Hierax;
    this.viewer = viewer;
    this.probe = make("p", {class: "probe"});
    this.value = make("output", {class: "value"});
    this.against = make("p", {class: "against"});
    this.pin = make("button", {type: "button", class: "pin", "aria-pressed": "false", click: () => viewer.pin()}, "Pin");
    this.bar = make("div", {class: "bar", "aria-hidden": "true"}, Hierax.cellsCanvas(1, 128, (at) => Hierax.colour(at / 127)));
    this.scale = make("p", {class: "scale"});
    this.rows = make("tbody");
    this.facts = make("dl", {class: "facts"});
    this.live = make("p", {class: "unseen", role: "status", "aria-live": "polite"});
    const most = make("input", {type: "number", name: "nearest", min: 1, max: 50, value: viewer.state.most,
      input: (event) => viewer.set({most: Math.min(50, Math.max(1, Math.floor(event.target.value) || 1))})});
    const wide = matchMedia("(min-width: 60rem)").matches; // a phone has no keys
    const keys = Hierax.KEYS.flatMap(([key, does]) => [make("dt", {}, key), make("dd", {}, does)]);
    this.element = make("aside", {"aria-label": "Values"},
      make("section", {class: "card"}, make("div", {class: "head"}, make("h2", {}, "Probe"), this.pin),
        this.probe, this.value, this.against, this.bar, this.scale,
        make("div", {class: "ticks"}, tick("scale from \u22121 to 1", "fixed", viewer.state.fixed, (fixed) => viewer.set({fixed})))),
      make("section", {class: "card"}, make("h2", {}, "Nearest cells"),
        make("div", {class: "ticks"}, make("label", {class: "number"}, "how many", most),
          tick("of other images only", "others", viewer.state.others, (others) => viewer.set({others}))),
        make("table", {}, make("thead", {}, make("tr", {}, ...["#", "cell", "cosine"].map(
          (text) => make("th", {scope: "col"}, text)))), this.rows)),
      make("section", {class: "card"}, make("div", {class: "head"}, make("h2", {}, "About"),
        make("button", {type: "button", click: () => viewer.exported()}, "Export PNG")), this.facts,
        make("details", {open: wide}, make("summary", {}, "Keys on a picture"),
          make("dl", {class: "keys", id: `keys-${viewer.id}`}, ...keys))),
      this.live);
  }

  /** Show the values of the present probe. */
  show() {
    const {viewer} = this;
    const {state, cells} = viewer;
    const [probe, reader] = [viewer.place(state.probe), state.pinned && state.reader ? viewer.place(state.reader) : null];
    this.probe.textContent = `${probe.text}, norm ${Hierax.rounded(cells.norms[state.probe.image][probe.cell])}`;
    this.pin.setAttribute("aria-pressed", String(state.pinned));
    this.pin.textContent = state.pinned ? "Pinned" : "Pin";
    const [nearest] = viewer.near;
    const cosine = reader ? viewer.cosines[state.reader.image][reader.cell] : nearest ? nearest.cosine : 1;
    this.value.textContent = Hierax.digits(cosine);
    this.against.textContent = reader
      ? `cosine with ${reader.text}, norm ${Hierax.rounded(cells.norms[state.reader.image][reader.cell])}`
      : `cosine with the nearest cell, ${nearest ? viewer.placed(nearest).text : "itself"}`;
    this.#showScale();
    this.#showNearest();
    clearTimeout(this.soon); // not at every step of a moving pointer
    this.soon = setTimeout(() => {
      const said = `${this.value.textContent}, ${this.against.textContent}`;
      this.live.textContent = reader ? said : `${this.probe.textContent}. ${said}`;
    }, 300);
  }

  #showScale() {
    const {state, stage, cells, range} = this.viewer;
    this.bar.hidden = !["similarity", "norms"].includes(state.layer);
    const [low, high] = range.map((value) => state.layer === "similarity" ? Hierax.digits(value) : Hierax.rounded(value));
    const [red, green, blue] = stage.explained.map(Hierax.percent);
    this.scale.textContent = {
      similarity: `Cosine with the probe: ${low} is dark, ${high} is bright, in all images.`,
      norms: `Length of a cell's features: ${low} is dark, ${high} is bright; the median is ${Hierax.rounded(cells.median)}.`,
      colours: `Equal colours are equal features in all images: red, green and blue carry ${red}, ${green} and ${blue} of the variance.`,
      image: "What the network saw.",
    }[state.layer];
  }

  /** One row a cell; rows stay, so that a focused button does too. */
  #showNearest() {
    const {viewer} = this;
    const {make} = Hierax;
    while (this.rows.children.length > viewer.near.length) this.rows.lastChild.remove();
    while (this.rows.children.length < viewer.near.length) {
      const rank = this.rows.children.length;
      const go = make("button", {type: "button", click: () => viewer.goTo(viewer.near[rank])});
      this.rows.append(make("tr", {}, make("td", {}, String(rank + 1)), make("td", {}, go), make("td")));
    }
    viewer.near.forEach((found, rank) => {
      const [, cell, cosine] = this.rows.children[rank].children;
      const place = viewer.placed(found);
      cell.firstChild.textContent = place.short;
      cell.firstChild.setAttribute("aria-label", `go to ${place.text}`);
      cosine.textContent = Hierax.digits(found.cosine);
    });
  }

  /** Facts of the stage that is shown, and of the model. */
  showFacts() {
    const {stage, data} = this.viewer;
    const facts = [
      ["map", `${stage.name}: ${stage.rows} \u00d7 ${stage.columns} cells of ${stage.stride} px, ${stage.channels} channels; rows and columns count from 0`],
      ["attention", stage.attention],
      ["error", `maps are kept as 8-bit numbers: a cosine is off by ${stage.mean.toFixed(4)} on average, ${stage.worst.toFixed(4)} at most, as measured`],
      ["colours", `PCA ${data.colours_from}`],
      ["model", Object.entries(data.about).map(([key, value]) => key === "model" ? value : `${key} ${value}`).join(", ")],
    ];
    if (data.left_out.length) facts.push(["left out", `${data.left_out.join(", ")}, for the size of the page`]);
    this.facts.replaceChildren(...facts.flatMap(([name, text]) => [Hierax.make("dt", {}, name), Hierax.make("dd", {}, text)]));
  }
};
