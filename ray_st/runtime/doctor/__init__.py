"""Diagnoses a cluster: what is wrong, and how to fix it.

Facts are gathered from every node; checks are functions of these facts.
"""
