"""What a user writes: scenarios, cards and traces, read and validated."""
