"""A search on Ray Tune: the study as its searcher, schedulers, and the process of a trial.

Imports Ray, :mod:`ray_st.study` and :mod:`ray_st.training`. A rule that needs no Ray belongs to
:mod:`ray_st.study`.
"""
