"""How far kernel times may be off, and tables that answer as if they were."""
