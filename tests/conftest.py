"""Check the types and array shapes that signatures state, here and not in production."""

from jaxtyping import install_import_hook

TYPE_CHECKED = ["core.losses", "core.prompts", "core.mentions", "core.schedule"]

install_import_hook(TYPE_CHECKED, "beartype.beartype")
