"""The mathematics of diffusion: processes, predictions, schedules, samplers, guidance and noise; no networks here."""
