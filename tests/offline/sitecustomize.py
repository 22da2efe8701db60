"""Python imports this by itself where PYTHONPATH has the folder: guards children."""

import offline

offline.install()
