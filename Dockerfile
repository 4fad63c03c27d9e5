# The service of `refusion serve` on a CPU: docker build -t refusion . && docker run -p 8187:8187 -v refusion:/data refusion
FROM python:3.12-slim
WORKDIR /build
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
 && pip install --no-cache-dir --constraint constraints.txt ".[serve]" && rm -rf /build/*
RUN useradd --create-home refusion && install --directory --owner refusion --mode 700 /data
USER refusion
WORKDIR /data
VOLUME /data
ENV REFUSION_DATA=/data PYTHONUNBUFFERED=1
EXPOSE 8187
ENTRYPOINT ["refusion", "serve", "--host", "0.0.0.0", "--no-open"]
