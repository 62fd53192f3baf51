"""Training of the embedded models: `python -m keystep.core.shapes.train vae|segmenter|clip|sd|sd3`."""
