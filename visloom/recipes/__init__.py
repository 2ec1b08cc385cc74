"""Recipes: one file per data set, each starting with the command that runs it and the number it reaches."""
