"""Report: the records of a run as numbers, and those numbers as a table, Markdown, JSON and a page."""
