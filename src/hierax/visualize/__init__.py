"""Pictures, from arrays and names alone: `charts` of a run, `sheets` of images, `maps` from features to colours."""
