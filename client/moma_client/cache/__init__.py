"""How a site fills and checks its teacher cache."""
