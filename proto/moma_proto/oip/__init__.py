"""The public Open Inference Protocol v2, as far as a teacher asks a model server."""
