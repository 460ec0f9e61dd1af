"""What a server's dashboard shows of its roles: its metrics and its status, no more."""
