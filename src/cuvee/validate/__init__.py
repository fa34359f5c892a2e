"""Judge the chosen mixture against its baselines on the targets' verdict half."""
