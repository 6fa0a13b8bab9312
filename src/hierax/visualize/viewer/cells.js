"use strict";
// The numbers: stage maps as `cells.py` packs them, and the cosines, lengths and neighbours of their cells.

const Hierax = {};

/** Bytes of a text that `cells.deflated` wrote. */
Hierax.inflated = async (text) => {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let place = 0; place < packed.length; place++) packed[place] = letters.charCodeAt(place);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
};

/** The cells of one stage of all images; a cell is named by its image and its place in row-major order. */
Hierax.Cells = class {
  /** Unpack a stage of the page's data. */
  static async of(stage) {
    const all = (texts) => Promise.all(texts.map(Hierax.inflated));
    const [numbers, norms, colours] = await Promise.all([all(stage.numbers), all(stage.norms), all(stage.colours)]);
    return new Hierax.Cells(stage, numbers, norms, colours);
  }

  constructor(stage, numbers, norms, colours) {
    this.count = stage.rows * stage.columns;
    this.planes = stage.planes;
    this.channels = stage.channels;
    this.numbers = numbers.map((bytes) => new Int8Array(bytes)); // plane after plane
    const [low, high] = stage.norm_range;
    this.norms = norms.map((bytes) => Float32Array.from(
      new Uint16Array(bytes), (share) => low + (share / 65535) * (high - low)));
    const sorted = Float32Array.from(this.norms.flatMap((each) => Array.from(each))).sort();
    this.median = sorted[sorted.length >> 1]; // of the norms
    this.colours = colours.map((bytes) => new Uint8Array(bytes)); // red, green, blue of cell after cell
    this.lengths = this.numbers.map((planes) => this.#lengthsOf(planes));
  }

  /** Cosines of one cell with all cells, an array for each image; a cell of zeros has cosine 0 with every other. */
  cosines(image, cell) {
    const own = this.#axesOf(image, cell);
    const length = this.lengths[image][cell];
    return this.numbers.map((planes, other) => {
      const sums = new Float32Array(this.count);
      this.planes.forEach(([axis, weight], plane) => {
        const factor = weight * own[axis];
        const from = plane * this.count;
        for (let at = 0; at < this.count; at++) sums[at] += factor * planes[from + at];
      });
      const lengths = this.lengths[other];
      for (let at = 0; at < this.count; at++) {
        const product = length * lengths[at];
        sums[at] = product > 0 ? Math.min(1, Math.max(-1, sums[at] / product)) : 0;
      }
      return sums;
    });
  }

  /** The `most` cells of greatest cosine, the greatest first, but for those that `without(image, cell)` names. */
  nearest(cosines, most, without) {
    const best = [];
    cosines.forEach((values, image) => {
      for (let cell = 0; cell < values.length; cell++) {
        const cosine = values[cell];
        if (best.length === most && cosine <= best[most - 1].cosine) continue;
        if (without(image, cell)) continue;
        let place = Math.min(best.length, most - 1);
        while (place > 0 && best[place - 1].cosine < cosine) place--;
        best.splice(place, 0, {image, cell, cosine});
        best.length = Math.min(best.length, most);
      }
    });
    return best;
  }

  /** A cell's number on each axis. */
  #axesOf(image, cell) {
    const own = new Float32Array(this.channels);
    this.planes.forEach(([axis, weight], plane) => {
      own[axis] += weight * this.numbers[image][plane * this.count + cell];
    });
    return own;
  }

  /** Length of each cell in steps. */
  #lengthsOf(planes) {
    const squares = new Float64Array(this.count);
    const value = new Float32Array(this.count);
    this.planes.forEach(([axis, weight], plane) => {
      const from = plane * this.count;
      for (let at = 0; at < this.count; at++) value[at] += weight * planes[from + at];
      const next = this.planes[plane + 1];
      if (next && next[0] === axis) return; // the lower half of this axis follows
      for (let at = 0; at < this.count; at++) squares[at] += value[at] * value[at];
      value.fill(0);
    });
    return Float64Array.from(squares, Math.sqrt);
  }
};
