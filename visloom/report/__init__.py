"""The report: one self-contained HTML page after every run."""
