# On a CPU: `docker build -t datalab .`, then `docker run datalab` reproduces and `docker run datalab make test` tests.
# The record stays with `-v datalab-runs:/home/datalab/runs`; what is committed is what is built. JupyterLab:
# `docker run -p 8888:8888 datalab make lab LAB="--ip=0.0.0.0 --no-browser"`.
# Tested without Docker: tests/test_dockerfile.py runs the RUN steps in a fresh folder, offline, by the Python at hand.
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home datalab
USER datalab
WORKDIR /home/datalab
COPY --chown=datalab .git .git
RUN git reset --hard --quiet && make CPU=1 install
CMD ["make", "reproduce"]
