"""What a run means: TPOT, throughput, goodput."""
