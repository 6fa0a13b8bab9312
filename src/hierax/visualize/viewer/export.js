"use strict";
// The picture of a page: all images as they are shown, with names, scale and origin, on white, as one PNG.

Hierax.exportPicture = async (viewer) => {
  const canvas = Hierax.pictureOf(viewer);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = Hierax.make("a", {download: `hierax-${viewer.state.stage}-${viewer.state.layer}.png`});
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};

/** A canvas with at most three images in a row. */
Hierax.pictureOf = (viewer) => {
  const [side, gap, line] = [560, 24, 26];
  const {panes, state, data} = viewer;
  const columns = Math.min(3, panes.length);
  const heights = panes.map(({image}) => Math.round((side * image.height) / image.width));
  const tall = Math.max(...heights);
  const rows = Math.ceil(panes.length / columns);
  const canvas = document.createElement("canvas");
  canvas.width = columns * (side + gap) + gap;
  canvas.height = rows * (tall + gap + line) + gap + 3 * line;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fcfcfa";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, font) => {
    context.font = `${font} system-ui, sans-serif`;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillStyle = "#20242c";
    context.fillText(text, x, y, canvas.width - x - gap);
  };
  panes.forEach(({image}, index) => {
    const x = gap + (index % columns) * (side + gap);
    const y = gap + Math.floor(index / columns) * (tall + gap + line);
    const pane = document.createElement("canvas");
    [pane.width, pane.height] = [side, heights[index]];
    Hierax.drawPane(pane.getContext("2d"), viewer.pane(index), 1);
    context.drawImage(pane, x, y);
    write(`${Hierax.letter(index)}  ${image.name}`, x, y + tall + line - 6, "600 16px");
  });
  const foot = canvas.height - 2 * line;
  write(`${data.about.model}, ${state.stage}; probe: ${viewer.place(state.probe).text}`, gap, foot, "16px");
  write(viewer.reading.scale.textContent, gap, foot + line, "16px");
  return canvas;
};
