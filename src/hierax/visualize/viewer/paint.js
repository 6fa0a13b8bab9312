"use strict";
// The pictures: colours of numbers, and what is drawn over an image on a canvas.

// Viridis at nine points: it grows evenly brighter, for every kind of colour vision, and in print.
Hierax.STOPS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];

/** The colour of a share from 0 to 1, as red, green and blue. */
Hierax.colour = (share) => {
  const at = Math.min(1, Math.max(0, share)) * (Hierax.STOPS.length - 1);
  const below = Math.min(Math.floor(at), Hierax.STOPS.length - 2);
  return Hierax.STOPS[below].map((from, part) =>
    Math.round(from + (Hierax.STOPS[below + 1][part] - from) * (at - below)));
};

/** A canvas with a pixel for each cell: `colourOf(cell)` gives red, green and blue. */
Hierax.cellsCanvas = (rows, columns, colourOf) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let cell = 0; cell < rows * columns; cell++) {
    image.data.set(colourOf(cell), 4 * cell);
    image.data[4 * cell + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
};

/**
 * Draw one image with its map, lines and marks, over the whole of a canvas.
 *
 * `what` has: picture (an image), rows, columns, cells (a canvas of `cellsCanvas`, or null), strength (0..1),
 * lines (a list of {step: [rows, columns], dash, colour}), text (cell -> string, or null), and
 * marks (a list of {row, column, kind: "probe" | "reader" | "near", label}).
 * `unit` is the size of a screen pixel on the canvas.
 */
Hierax.drawPane = (context, what, unit) => {
  const {width, height} = context.canvas;
  const cell = {width: width / what.columns, height: height / what.rows};
  context.imageSmoothingEnabled = true;
  context.drawImage(what.picture, 0, 0, width, height);
  if (what.cells) {
    context.imageSmoothingEnabled = false;
    context.globalAlpha = what.strength;
    context.drawImage(what.cells, 0, 0, width, height);
    context.globalAlpha = 1;
  }
  for (const line of what.lines) Hierax.drawLines(context, line, cell, unit);
  if (what.text && Math.min(cell.width, cell.height) >= 30 * unit) Hierax.drawTexts(context, what, cell, unit);
  for (const mark of what.marks) Hierax.drawMark(context, mark, cell, unit);
};

/** Lines between every so many cells: light ones on dark ones, which are seen on any image. */
Hierax.drawLines = (context, {step, dash, colour}, cell, unit) => {
  const {width, height} = context.canvas;
  const path = new Path2D();
  for (let x = step[1] * cell.width; x < width - 0.5; x += step[1] * cell.width) {
    path.moveTo(x, 0);
    path.lineTo(x, height);
  }
  for (let y = step[0] * cell.height; y < height - 0.5; y += step[0] * cell.height) {
    path.moveTo(0, y);
    path.lineTo(width, y);
  }
  context.setLineDash(dash.map((length) => length * unit));
  for (const [stroke, thickness] of [["rgba(0, 0, 0, 0.6)", dash.length ? 3 : 2.2], [colour, dash.length ? 1.6 : 1]]) {
    context.strokeStyle = stroke;
    context.lineWidth = thickness * unit;
    context.stroke(path);
  }
  context.setLineDash([]);
};

/** A short text in each cell, black with a white rim. */
Hierax.drawTexts = (context, what, cell, unit) => {
  context.font = `600 ${Math.min(cell.width / 3.1, 13 * unit)}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3 * unit;
  context.strokeStyle = "rgba(255, 255, 255, 0.85)";
  context.fillStyle = "#101216";
  for (let row = 0; row < what.rows; row++) {
    for (let column = 0; column < what.columns; column++) {
      const place = [what.text(row * what.columns + column), (column + 0.5) * cell.width, (row + 0.5) * cell.height];
      context.strokeText(...place);
      context.fillText(...place);
    }
  }
};

/** The probe is a white frame, what it is compared with an orange dashed one, a near cell a numbered disc. */
Hierax.drawMark = (context, {row, column, kind, label}, cell, unit) => {
  if (kind === "near") {
    const radius = 8 * unit;
    // In a large cell the disc stands in the corner, where it hides no digits.
    const off = Math.min(cell.width, cell.height) > 4.5 * radius;
    const x = off ? column * cell.width + radius : (column + 0.5) * cell.width;
    const y = off ? row * cell.height + radius : (row + 0.5) * cell.height;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = "#101216";
    context.fill();
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5 * unit;
    context.stroke();
    context.font = `700 ${10 * unit}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = "#ffffff";
    context.fillText(label, x, y + 0.5 * unit);
    return;
  }
  // No smaller than can be seen, whatever the size of the cell.
  const width = Math.max(cell.width, 10 * unit), height = Math.max(cell.height, 10 * unit);
  const box = [(column + 0.5) * cell.width - width / 2, (row + 0.5) * cell.height - height / 2, width, height];
  context.setLineDash(kind === "reader" ? [5 * unit, 3 * unit] : []);
  for (const [stroke, thickness] of [["#101216", 5], [kind === "reader" ? "#ffb54a" : "#ffffff", 2.4]]) {
    context.strokeStyle = stroke;
    context.lineWidth = thickness * unit;
    context.strokeRect(...box);
  }
  context.setLineDash([]);
};
