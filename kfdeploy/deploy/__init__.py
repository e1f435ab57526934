"""From a pool to a device: assembling, exporting, proving, predicting."""
