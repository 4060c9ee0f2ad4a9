"""Pages in a browser for a data owner and for an operator, over files and services that exist.

The console keeps no state: at each request it reads the workspace, the serving store, the registry
and the endpoint, and it changes them by the functions that the commands call. `guard` decides who
may ask; `owner` and `operator` are the two sets of pages. The operator's pages hold no text of a
tenant.
"""
