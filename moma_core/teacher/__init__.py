"""What a teacher is to the training loop: its protocol, queries, local teachers."""
