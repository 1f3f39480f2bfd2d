"""Whatever bytes come, each reader of ours ends with a value or a sentence: with no other exception, and not late.

``targets`` are the readers, ``corpus`` their seeds, one folder each. The same targets are run over the corpus, over its
mutations, over what hypothesis makes by grammar, and under atheris, which looks for bytes that reach new lines of code.
"""
