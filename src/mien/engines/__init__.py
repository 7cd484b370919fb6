"""Engines: everything that writes or reads with a model, behind `records.Engine`. Import one by its own module."""
