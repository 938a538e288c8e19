"""Several runs that answer one question: replications, comparisons, capacity, batch."""
