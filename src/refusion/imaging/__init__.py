"""Pictures as values: files, resizing, masks, lenses, and measurements in a picture."""
