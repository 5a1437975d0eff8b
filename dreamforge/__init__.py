"""Invert a trained classifier into a dream set: teacher in, sharded HDF5 out."""
