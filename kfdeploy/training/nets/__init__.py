"""Networks. Every backbone returns its stages' features through its return value, never through hooks."""
