"""The commands of `keystep` that know machines, one module each."""
