"""The report: one self-contained HTML page after every run, and one page that compares several runs."""
