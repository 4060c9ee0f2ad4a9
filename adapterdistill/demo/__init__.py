"""The stories that `adapterdistill demo` and `adapterdistill federation` tell."""
