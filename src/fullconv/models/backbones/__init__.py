"""The built-in classifiers, one file for each family, and those of other libraries."""
