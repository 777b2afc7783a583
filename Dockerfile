# docker build -t segrefine . && docker run --rm -v "$PWD/outputs:/runs/outputs" segrefine
# Data: -v DIR:/data and datamodule.root=/data. GPUs: --gpus all. Shared memory for reading processes: --shm-size 2g.
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir .
WORKDIR /runs
ENTRYPOINT ["segrefine"]
CMD ["train", "logger=csv"]
