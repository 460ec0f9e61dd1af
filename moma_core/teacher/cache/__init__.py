"""A teacher's outputs for known views, kept on disk and read as a teacher."""
