"""What a search knows, without Ray: spaces, objectives, studies, journals, reports, rules of early stopping."""
