"""Certificates: what is in one, the operator's files, and which one each host is seen to have.

files    the operator's, in a directory
reading  whose word one is, for which names, until when (pure)
seen     which one each host is seen to have
"""
