"""The process that runs tasks. Private: started by the supervisor as `python -m fastedgy.worker`."""
