"""A report of a run or a comparison as one HTML file or as Markdown: what was asked, what came out, on what it stands."""
