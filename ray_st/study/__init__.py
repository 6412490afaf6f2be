"""What a search knows: spaces, objectives, the journal, rules of halving and populations, reports.

Imports Optuna, numpy and rooms below, never Ray. A new sampler rule, stopping rule or plot is a file here;
what runs it on a cluster is in :mod:`ray_st.runtime.tune`.
"""
