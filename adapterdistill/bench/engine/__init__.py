"""`bench serving`: the speed of the serving engine, without HTTP."""
