"""What is copied to a device as it is: the clock, what it watches, and how images are read.

These files need nothing but numpy, Pillow and Python's own library.
"""
