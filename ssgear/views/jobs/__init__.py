"""Running a generator over many images: plan, workers, Ray, signals, progress, estimate."""
