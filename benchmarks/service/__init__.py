"""What trust costs: the sealed, signed, budgeted, logged service against a bare one."""
