"""Updates in the field: what changed as one small signed file, and taking it on a device."""
