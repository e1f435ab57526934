"""One module a kind of task: its outputs, statistics and scores. Numpy alone."""
