"""Check a broker's settings, files and connections, and report what is wrong before it matters.

Thin functions gather facts (`file_facts` here, `facts` in the packages of the store and the providers); pure ones
decide what they mean. Changes nothing, sends no secret but the password to Redis, and prints none.
"""

from broker.check.finding import Finding, exit_code, summary
from broker.check.run import offline, online

__all__ = ["Finding", "exit_code", "offline", "online", "summary"]
