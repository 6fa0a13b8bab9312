"""A model behind HTTP: `hierax serve`, or `create_app(Settings(...))` under any ASGI server (extra `serve`).

The web process reads, checks and decodes; a process of its own has the model (`worker.py`), and `line.py` stands
between them. `dialects/` says what requests and answers look like. Decision note 0020 tells why.
"""

from .app import application, create_app
from .settings import Limits, Settings

__all__ = ["Limits", "Settings", "application", "create_app"]
