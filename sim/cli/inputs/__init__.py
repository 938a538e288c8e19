"""The verbs that list and show what afdsim reads: scenarios and cards."""
