"""Reports of a run or a comparison, as one HTML file or as Markdown: configuration, results and environment."""
