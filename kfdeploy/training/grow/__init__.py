"""Growing a pool by one task, while everything that is there stays as it is, to the byte."""
