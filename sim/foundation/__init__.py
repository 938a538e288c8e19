"""What every room stands on: errors, units, random streams, statistics, Pareto fronts."""
