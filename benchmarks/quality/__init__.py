"""Does a teacher help a student, by how much, and by which method."""
