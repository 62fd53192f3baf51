"""A search's result taken to production: as a config, and as a model that is served."""
