"""The service behind `refusion serve`: a page and an HTTP API over one worker process.

The process that answers requests imports neither torch nor a decoder of pictures; `worker` alone does, in a
process of its own, which may die without taking the service or other jobs with it.
"""
