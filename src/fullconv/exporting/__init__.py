"""Export to files of other programs, verified before they are kept."""
