"""The dashboard: ``streamlit run app.py``."""

from workbench.dashboard.front import main

main()
