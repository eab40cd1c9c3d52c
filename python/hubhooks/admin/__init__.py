"""Show deliveries to their owner: JSON over HTTP, the Gradio tab, metrics."""
