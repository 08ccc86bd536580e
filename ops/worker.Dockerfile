# What computes: worker and trainer.
FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app

# The index that has torch's build for the device; empty: pip's own configuration decides.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt .
RUN pip install --no-deps --retries 1 ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    "$(grep '^torch==' requirements.txt)"
RUN sed '/^# ---- one machine/,$d' requirements.txt > /tmp/worker.txt \
    && pip install -r /tmp/worker.txt \
    && rm /tmp/worker.txt

# The kernels, compiled in front of what changes more often; the compiler does not stay.
COPY --chmod=755 worker/__init__.py worker/
COPY --chmod=755 worker/kernels worker/kernels
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++ >/dev/null \
    && python -m worker.kernels.build --any-processor \
    && apt-get purge -y -qq --auto-remove g++ >/dev/null && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp penstock \
    && install -d -o penstock -g penstock /artifacts /state /hub
# 755: readable to penstock whatever the umask of the checkout was
COPY --chmod=755 models models
COPY --chmod=755 jobs jobs
COPY --chmod=755 worker worker
COPY --chmod=755 trainer trainer
COPY --chmod=755 ops/health.py ops/
# the root is read-only later, so compile now
RUN python -m compileall -q jobs worker trainer

USER 10001:10001
CMD ["python", "-m", "worker.app"]
