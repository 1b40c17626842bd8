"""The published datasets, one file for each family."""
