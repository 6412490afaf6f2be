"""What is wrong with a cluster, and what to do about it.

It gathers facts from every node; checks are functions of them.
"""
