"""The embedded images (see ORIGIN.md beside this file), and the program that made their archive."""
