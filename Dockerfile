# Never built: there was no Docker where this was written. Its RUN lines are run as a script in a
# folder of their own by tests/test_packaging.py, without the downloads.
#   docker build -t nt_jax .                                        CPU
#   docker build -t nt_jax --build-arg EXTRA=cuda12 .               CUDA; the driver is the host's
#   docker run --rm -v "$PWD:/work" nt_jax train --config my-model.yaml
FROM python:3.11-slim

ARG EXTRA=
WORKDIR /opt/nt_jax
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY nt_jax nt_jax
RUN python -m venv venv
RUN venv/bin/python -m pip --disable-pip-version-check install --no-cache-dir --no-deps --require-hashes -r requirements.lock
RUN sed -n 's/ *\\$//; /^[a-z].*==/p' requirements.lock > constraints
RUN venv/bin/python -m pip --disable-pip-version-check install --no-cache-dir --no-build-isolation -c constraints ".${EXTRA:+[$EXTRA]}"
RUN venv/bin/nt-jax --version

ENV PATH=/opt/nt_jax/venv/bin:$PATH
WORKDIR /work
ENTRYPOINT ["/opt/nt_jax/venv/bin/nt-jax"]
CMD ["--help"]
