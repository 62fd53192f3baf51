"""Training of the embedded models: `python -m core.shapes.train vae|segmenter|clip|sd|sd3`."""
