"""Ways to transfer knowledge from a teacher, one module each."""
