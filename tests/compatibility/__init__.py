"""Every name of the reference pages, and what became of it: written to docs/compatibility.md, and checked."""
