"""No test asks a model hub. Types and array shapes that signatures state are checked, here and not in production."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub's library, which reads it once

from jaxtyping import install_import_hook

TYPE_CHECKED = ["keystep.core.losses", "keystep.core.prompts", "keystep.core.mentions", "keystep.core.schedule"]

install_import_hook(TYPE_CHECKED, "beartype.beartype")

# A shell starts what runs in its background with SIGINT ignored; tests of Ctrl-C need it as a terminal gives it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
