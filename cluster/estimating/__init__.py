"""What a search will cost, by a clock in place of GPUs."""
