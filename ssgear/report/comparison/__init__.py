"""The page that compares runs, with the same table as CSV and LaTeX (`ssgear compare`)."""
