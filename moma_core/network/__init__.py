"""How a program reaches others: addresses, and the proxy between."""
