"""The pool: one teacher's knowledge as files, read, written, checked, edited and planned with."""
