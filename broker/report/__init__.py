"""What people read of the broker's state, in words: its verdict, the state of a grant, and its explanation.

Pure: facts and `now` in, sentences out. The API serves them, so that commands and status page say the same.
"""
