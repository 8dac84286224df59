"""The application of the user guide: its snippets to the letter, and what they take for granted."""
