"""Data sets and formats, one file each, and the transforms their samples go through."""
