"""Device, server and load roles, wire format, encodings. Needs torch, nothing else.

Only ``build`` needs more: the library that makes the model, where that is what is carried.
"""
