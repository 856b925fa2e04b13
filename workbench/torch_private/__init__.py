"""Every private name of torch that the workbench uses, once, under a public name; one file per part of torch.

The docstring of an entry names what it stands for (``Private``), the file in which torch defines or uses that (``Upstream``), the
versions with which its test passed (``Checked``), and why no public API does it (``Reason``).
``tests/torch_private`` tests each entry against the installed torch and rejects private names in all other files.
"""
