"""The script that ``workbench dashboard`` serves. Next to ``pages``, Streamlit would take that for its own list of pages."""

from workbench.dashboard.shell import main

main()
