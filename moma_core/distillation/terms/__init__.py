"""One loss a file: what a student may learn from a teacher's logits or embeddings."""
