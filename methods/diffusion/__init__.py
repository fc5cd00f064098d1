"""Diffusion and flows of images: noise schedules, samplers both ways, denoisers, guidance and its tuning."""
