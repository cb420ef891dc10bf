"""Tiny random pipelines of diffusers, built offline from their configurations, and their own loops as reference."""
