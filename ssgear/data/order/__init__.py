"""Which images a step shows, in what order: sampling, mixing, and stand-ins for lost files."""
