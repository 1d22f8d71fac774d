"""Whether calls of a function may share this process with others, by what its code does.

``shareable`` decides; ``writes`` and ``expressions`` follow values through code, in terms of
``marks``; ``codetrees`` has the syntax of code, ``belongings`` knows what belongs to the process or
to one thread, and ``mutators`` which functions change what they are given.
"""
