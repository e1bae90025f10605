"""`Runs` through a running server's private socket: a command of the same user and home starts warm there.

What is spoken is our own events, not the public HTTP: no key is asked for, since who is at the other end is known.
"""
