"""What a task is, and what is known of it."""
