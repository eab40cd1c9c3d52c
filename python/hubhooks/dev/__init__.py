"""`hubhooks dev`: run an app on this machine, and restart it when its code changes.

The supervisor owns the public port. The app runs in a child process on a private port.
"""
