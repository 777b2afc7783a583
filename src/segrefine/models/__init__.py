"""Encoders, decoders and their assembly."""
