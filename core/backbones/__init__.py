"""One file a model family; a new family is one new file and one new line in BACKBONES."""
