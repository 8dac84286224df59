"""The process that runs tasks. Private: the supervisor starts it as `python -m fastedgy.worker`."""
