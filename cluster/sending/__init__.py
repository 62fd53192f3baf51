"""What leaves this machine, by which programs, and where it went."""
