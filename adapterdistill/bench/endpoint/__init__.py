"""`bench serving --http`: the speed of the deployed endpoint over HTTP."""
