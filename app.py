"""The dashboard: ``streamlit run app.py``."""

from workbench.dashboard.shell import main

main()
