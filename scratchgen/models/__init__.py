"""Floor 4: the systems of the lecture, one file each."""
