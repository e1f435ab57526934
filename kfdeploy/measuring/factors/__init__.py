"""Are the factors factors? How alike they are, and what each of them knows."""
