"""What ``workbench dashboard`` serves; not beside ``pages``, which Streamlit would take for a list of pages of its own."""

from workbench.dashboard.shell import main

main()
