"""How the documentation is built: sphinx-build -W -q -b html docs docs/_build/html."""

import refusion

project = "Refusion"
author = "The Refusion developers"
copyright = "2026, The Refusion developers"
version = release = refusion.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"Refusion {release}"
