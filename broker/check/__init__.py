"""Looking at a broker's settings, files and connections, and saying what is wrong before it matters.

Facts are gathered by thin functions (`disk` here, `facts` in the rooms of the store and the providers); what they mean
is decided by pure ones. Changes nothing, sends no secret but the password to Redis, and prints none.
"""

from broker.check.finding import Finding, exit_code, summary
from broker.check.run import offline, online

__all__ = ["Finding", "exit_code", "offline", "online", "summary"]
