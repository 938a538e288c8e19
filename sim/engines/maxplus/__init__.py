"""Max-plus algebra of a program: its graph, its tables, its critical circuit."""
