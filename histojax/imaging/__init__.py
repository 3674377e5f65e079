"""Images in use: read, tile, label, write, report; never imports stages."""
