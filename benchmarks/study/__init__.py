"""Does a teacher help on anybody's own patches: the same question by a manifest."""
