"""The report of a run: one HTML page that its owner reads from disk, and figures as JSON.

`findings` looks at rows while the adapters are in memory; `runs` reads what a run has left on disk;
`costs`, `differences` and `words` derive what is shown; `page` and `plots` draw it.
"""
