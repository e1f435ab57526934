"""The report: the page, its tables and charts, the picture, and the sentences."""
