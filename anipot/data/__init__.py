"""Data sets: one view on the files of this field, checks, splits, batches and downloads."""
