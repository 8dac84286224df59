"""The application that `fastedgy demo` runs, to read and to copy from.

`app` has the routes, `tasks` what they set in motion.
"""
