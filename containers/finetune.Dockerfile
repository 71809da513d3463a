# Everything but vLLM: data, fine-tuning, exact laws, scores, figures. The same as finetune.def, for Docker (tests/test_images.py compares them).
# docker build -f containers/finetune.Dockerfile --build-arg COMMIT=$(git rev-parse HEAD) -t cft-finetune .
ARG BASE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
FROM ${BASE}
ARG LOCK=finetune
ARG LOCK_HASH=unchecked
ARG COMMIT=unknown
ARG DATE=unknown
ARG SNAPSHOT=20251101T000000Z

COPY containers/locks/${LOCK}.txt /opt/cft/locks/lock.txt
COPY containers/locks/smollm2.txt /opt/cft/locks/smollm2.txt
COPY containers/fill /opt/cft/fill
COPY containers/selftest.py /opt/cft/selftest.py
COPY containers/cft /opt/cft/bin/cft

RUN sh /opt/cft/fill "${LOCK_HASH}" "${SNAPSHOT}"

ENV PATH=/opt/cft/bin:/opt/cft/venv/bin:$PATH
ENV PYTHONPATH=/opt/cft/src
ENV PYTHONNOUSERSITE=1
ENV PYTHONDONTWRITEBYTECODE=1

LABEL org.opencontainers.image.title=cft-finetune
LABEL org.opencontainers.image.revision=${COMMIT}
LABEL org.opencontainers.image.created=${DATE}
LABEL cft.lock=${LOCK_HASH}

RUN /opt/cft/venv/bin/python /opt/cft/selftest.py peft
