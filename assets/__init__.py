"""Orchestration: the Dagster assets, checks, schedule, sensor, settings and commands."""
