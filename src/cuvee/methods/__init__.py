"""The papers, each read like its algorithm box, and what they share."""
