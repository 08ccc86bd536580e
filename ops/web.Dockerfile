# Everything that needs no tensors: web, clerk, sweeper, migrate and secrets.
FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

COPY requirements.txt .
RUN sed '/^# ---- worker and trainer/,$d' requirements.txt > /tmp/web.txt \
    && pip install -r /tmp/web.txt \
    && rm /tmp/web.txt

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp penstock \
    && install -d -o penstock -g penstock /artifacts
# 755: readable to penstock whatever the umask of the checkout was
COPY --chmod=755 alembic.ini ./
COPY --chmod=755 migrations migrations
COPY --chmod=755 jobs jobs
COPY --chmod=755 stack stack
COPY --chmod=755 web web
COPY --chmod=755 ops/passwords.py ops/health.py ops/
# the root is read-only later, so compile now
RUN python -m compileall -q jobs stack web migrations

USER 10001:10001
CMD ["gunicorn", "--config", "web/gunicorn.conf.py", "web.wsgi:app"]
