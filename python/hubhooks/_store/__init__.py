"""Store deliveries and their runs."""
