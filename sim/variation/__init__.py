"""Everything that is drawn: noise, expert loads, and the balancing of experts."""
