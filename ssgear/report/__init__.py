"""The report of a run: one self-contained HTML file that shows what was trained and how well.

`write_report(run_dir, contents)` writes it (contents.py has what it is given);
`project_2d(features)` makes the coordinates of its map.
"""
