"""The paper's tables and figures, measured on the data at hand."""
