"""What gunicorn serves: one application per worker process."""

from jobs import logs, settings
from web import create_app

_settings = settings.read()
logs.configure("web", _settings.log_level)
app = create_app(_settings)
