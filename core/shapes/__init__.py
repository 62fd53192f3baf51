"""The embedded world: scenes of coloured shapes, and small diffusers pipelines trained on them."""
