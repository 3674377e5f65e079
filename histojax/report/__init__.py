"""Pages: of a run, of a chain, of runs compared."""
