"""Drills of the registry: faulty calls, a full or damaged disk, wrong clocks, kills, fuzzing."""
