"""Data: images and labels from folders, shards and libraries, as numpy; and which of them a choice is made on."""
