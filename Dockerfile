# What docker-compose.yml runs: --target etl (Spark, HDFS daemons), train (a GPU box or a CPU), airflow
# (Airflow, and what its pipelines start there), tracking (MLflow's server).
FROM python:3.11.14-slim-bookworm AS base
# Bytecode is made here, once: a container that starts would compile all that it imports.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 UV_COMPILE_BYTECODE=1 PYTHONPATH=/opt/penstock
WORKDIR /opt/penstock
COPY requirements/uv.lock requirements/
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/uv.lock \
    && useradd --create-home --uid 1000 penstock \
    && mkdir /data /runs && chown penstock /data /runs .

FROM base AS etl
COPY requirements/etl.lock requirements/
RUN uv pip install --system --no-cache --no-deps --require-hashes -r requirements/etl.lock
COPY --chown=penstock . .
USER penstock
RUN python -m cluster.commands fetch

FROM base AS train
COPY requirements/train.lock requirements/
RUN uv pip install --system --no-cache --no-deps --require-hashes -r requirements/train.lock
COPY --chown=penstock . .
USER penstock
ENTRYPOINT ["python", "-m", "penstock.cli"]

FROM base AS airflow
COPY requirements/demo.lock requirements/airflow.lock requirements/
RUN for place in demo airflow; do \
        folder=.venv; [ $place = demo ] || folder=.venv-$place; \
        python -m venv $folder && uv pip install --python $folder/bin/python --no-cache --no-deps --require-hashes \
            -r requirements/$place.lock || exit 1; \
    done
COPY --chown=penstock . .
RUN .venv/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .
USER penstock

FROM base AS tracking
COPY requirements/tracking.lock requirements/
RUN uv pip install --system --no-cache --no-deps --require-hashes -r requirements/tracking.lock
USER penstock
