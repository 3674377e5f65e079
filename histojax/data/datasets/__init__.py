"""Published data sets, read from the layouts in which they are published, one module each."""
